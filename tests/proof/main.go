// Verifies an audit log and its tree with Go's own transparency log, which shares nothing with ours:
// verifier audit.log vkey. The tiles have to lead to the signed root, and each line to its entry.
package main

import (
	"bufio"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"sort"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

type tiles struct{ folder string }

func (t tiles) Height() int { return 8 }

// ReadTiles reads tiles under the names of C2SP, which leave out the height.
func (t tiles) ReadTiles(wanted []tlog.Tile) ([][]byte, error) {
	var data [][]byte
	for _, tile := range wanted {
		path := strings.Replace(tile.Path(), "tile/8/", "tile/", 1)
		bytes, err := os.ReadFile(filepath.Join(t.folder, path))
		if err != nil {
			return nil, err
		}
		data = append(data, bytes)
	}
	return data, nil
}

func (t tiles) SaveTiles([]tlog.Tile, [][]byte) {}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func main() {
	path, folder := os.Args[1], os.Args[1]+".tree"
	verifier, err := note.NewVerifier(strings.TrimSpace(os.Args[2]))
	check(err)
	signed, err := os.ReadFile(filepath.Join(folder, "checkpoint"))
	check(err)
	opened, err := note.Open(signed, note.VerifierList(verifier))
	check(err)
	lines := strings.SplitN(opened.Text, "\n", 3)
	var size int64
	_, err = fmt.Sscanf(lines[1], "%d", &size)
	check(err)
	root, err := tlog.ParseHash(strings.TrimSpace(lines[2]))
	check(err)
	reader := tlog.TileHashReader(tlog.Tree{N: size, Hash: root}, tiles{folder})
	segments, err := filepath.Glob(strings.TrimSuffix(path, ".log") + "-*.log")
	check(err)
	sort.Strings(segments)
	var entry int64
	for _, file := range append(segments, path) {
		opened, err := os.Open(file)
		check(err)
		scanner := bufio.NewScanner(opened)
		scanner.Buffer(nil, 1<<20)
		for ; entry < size && scanner.Scan(); entry++ {
			hashes, err := reader.ReadHashes([]int64{tlog.StoredHashIndex(0, entry)})
			check(err)
			if hashes[0] != tlog.RecordHash(scanner.Bytes()) {
				log.Fatalf("%s: its line is not entry %d", file, entry)
			}
		}
		check(scanner.Err())
	}
	if entry != size {
		log.Fatalf("%d lines of %d entries", entry, size)
	}
	fmt.Printf("%d entries\n", size)
}
