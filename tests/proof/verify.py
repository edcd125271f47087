#!/usr/bin/env python3
"""Verifies an audit log by the documented format alone: verify.py audit.log public.pem. See docs/audit-proof.md."""
import base64, gzip, hashlib, json, os, re, subprocess, sys, tempfile

log, key = sys.argv[1], sys.argv[2]
text, signatures = open(log + ".tree/checkpoint", encoding="utf-8").read().split("\n\n", 1)
origin, size, root = text.split("\n")[:3]
size, root = int(size), base64.b64decode(root)
def sha256(*parts): return hashlib.sha256(b"".join(parts)).digest()
# The signature: Ed25519 over the text, by the key whose id is in front of it.
public = ["openssl", "pkey", "-pubin", "-in", key, "-outform", "DER"]
public = subprocess.run(public, check=True, capture_output=True).stdout[-32:]
mine = [line.split(" ")[2] for line in signatures.splitlines() if line.startswith("\u2014 " + origin + " ")]
by_key = [s[4:] for s in map(base64.b64decode, mine) if s[:4] == sha256(origin.encode() + b"\n\x01" + public)[:4]]
if not by_key: sys.exit(f"{log}.tree/checkpoint: it is not signed by this key")
with tempfile.TemporaryDirectory() as folder:
    for name, content in (("text", (text + "\n").encode()), ("signature", by_key[0])):
        open(f"{folder}/{name}", "wb").write(content)
    subprocess.run(["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", key, "-rawin", "-in", f"{folder}/text",
                    "-sigfile", f"{folder}/signature"], check=True, capture_output=True)
# The entries: the lines of the segments, in the order of their first lines, and of the log.
def lines(path): return (gzip.open if path.endswith(".gz") else open)(path, "rb")
stem, extension = map(re.escape, os.path.splitext(os.path.basename(log)))
segment = re.compile(rf"({stem}-[0-9]{{20}}{extension}|{stem}{extension}[.-][0-9][0-9TZ.:_-]*)(\.gz)?")
beside = os.path.dirname(log) or "."
segments = [f"{beside}/{name}" for name in os.listdir(beside) if segment.fullmatch(name)]
first = [(next(lines(path), b""), path) for path in segments]
begun = sorted((json.loads(line)["audited_at"], path) for line, path in first if line)
stack, count = [], 0
for path in [path for _, path in begun] + [log]:
    for line in lines(path):
        if count < size:
            stack, count, number = stack + [sha256(b"\0", line[:-1])], count + 1, count + 1
            while number % 2 == 0:  # Two full trees of the same size become one.
                stack[-2:], number = [sha256(b"\1", *stack[-2:])], number // 2
while len(stack) > 1:
    stack[-2:] = [sha256(b"\1", *stack[-2:])]
if count != size or (stack or [sha256()]) != [root]:
    sys.exit(f"{log}: {count} of {size} entries, and they do not lead to the root of the checkpoint")
print(f"{log}: {size} entries of {origin} are as they were signed")
