//! Where a tile is: `tile/<L>/<N>`, and `tile/<L>/<N>.p/<W>` while it has only W of its 256 hashes.

use std::path::{Path, PathBuf};

/// Hashes of a full tile.
pub const TILE: u64 = 256;

/// A tile. Its hashes are of level 8·L of the tree, from number 256·N on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tile {
    /// L
    pub level: usize,
    /// N
    pub number: u64,
    /// W; 256 of a full one.
    pub width: u64,
}

impl Tile {
    /// The last tile of a level in a tree of that size. `None`: it has no hash of that level that is in no full tile.
    pub fn last_partial(level: usize, size: u64) -> Option<Self> {
        let hashes = size.checked_shr(8 * u32::try_from(level).ok()?)?;
        let (number, width) = (hashes / TILE, hashes % TILE);
        (width > 0).then_some(Self { level, number, width })
    }

    /// All partial tiles of a tree of that size.
    pub fn partials(size: u64) -> impl Iterator<Item = Self> {
        (0..8).filter_map(move |level| Self::last_partial(level, size))
    }

    /// The same tile when it is full.
    pub fn full(self) -> Self {
        Self { width: TILE, ..self }
    }

    /// Its path below the tree's folder.
    pub fn path(&self, folder: &Path) -> PathBuf {
        self.path_of_kind(folder, "tile", &self.level.to_string())
    }

    /// Where the entries of such a tile of level 0 are.
    pub fn entries_path(&self, folder: &Path) -> PathBuf {
        self.path_of_kind(folder, "tile", "entries")
    }

    fn path_of_kind(&self, folder: &Path, kind: &str, level: &str) -> PathBuf {
        let mut parts = vec![format!("{:03}", self.number % 1_000)];
        let mut rest = self.number / 1_000;
        while rest > 0 {
            parts.push(format!("x{:03}", rest % 1_000));
            rest /= 1_000;
        }
        let mut path = folder.join(kind).join(level);
        path.extend(parts.iter().rev());
        if self.width < TILE {
            let mut partial = path.into_os_string();
            partial.push(".p");
            path = PathBuf::from(partial).join(self.width.to_string());
        }
        path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_those_of_the_specification() {
        let path = |level, number, width| Tile { level, number, width }.path(Path::new(""));
        assert_eq!(path(0, 0, 256), Path::new("tile/0/000"));
        assert_eq!(path(1, 1_234_067, 256), Path::new("tile/1/x001/x234/067"));
        assert_eq!(path(0, 273, 112), Path::new("tile/0/273.p/112"));
        assert_eq!(path(0, 1_000, 1), Path::new("tile/0/x001/000.p/1"));
        let entries = Tile { level: 0, number: 1_000, width: 256 }.entries_path(Path::new("d"));
        assert_eq!(entries, Path::new("d/tile/entries/x001/000"));
    }

    #[test]
    fn partial_tiles_are_those_of_the_specification() {
        // Its example: 70,000 entries.
        let partials: Vec<_> = Tile::partials(70_000).collect();
        let tile = |level, number, width| Tile { level, number, width };
        assert_eq!(partials, [tile(0, 273, 112), tile(1, 1, 17), tile(2, 0, 1)]);
        assert_eq!(Tile::partials(0).count(), 0);
        assert_eq!(Tile::partials(65_536).collect::<Vec<_>>(), [tile(2, 0, 1)]);
        assert_eq!(Tile::last_partial(9, 5), None);
    }
}
