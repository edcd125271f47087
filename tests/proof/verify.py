#!/usr/bin/env python3
"""Verifies an audit log by the documented format alone: verify.py audit.log public.pem. See docs/audit-proof.md."""
import base64, glob, gzip, hashlib, json, os, subprocess, sys, tempfile

log, key = sys.argv[1], sys.argv[2]
tree = log + ".tree"
note = open(tree + "/checkpoint", encoding="utf-8").read()
text, signatures = note.split("\n\n", 1)
origin, size, root = text.split("\n")[:3]
size, root = int(size), base64.b64decode(root)

# The signature: Ed25519 over the text, by the key whose id is in front of it.
pem = subprocess.run(["openssl", "pkey", "-pubin", "-in", key, "-outform", "DER"], check=True, capture_output=True).stdout
public = pem[-32:]
key_id = hashlib.sha256(origin.encode() + b"\n\x01" + public).digest()[:4]
mine = [line.split(" ")[2] for line in signatures.splitlines() if line.startswith("\u2014 " + origin + " ")]
signature = next(s for s in map(base64.b64decode, mine) if s[:4] == key_id)[4:]
with tempfile.TemporaryDirectory() as folder:
    for name, content in (("text", (text + "\n").encode()), ("signature", signature)):
        open(f"{folder}/{name}", "wb").write(content)
    subprocess.run(["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", key, "-rawin", "-in", f"{folder}/text",
                    "-sigfile", f"{folder}/signature"], check=True, capture_output=True)

# The entries: the lines of the segments, in the order of their first lines, and of the log.
stem, extension = os.path.splitext(log)
def lines(path):
    return (gzip.open if path.endswith(".gz") else open)(path, "rb")
segments = [path for path in glob.glob(f"{stem}-*{extension}*") + glob.glob(f"{log}.[0-9]*")]
segments.sort(key=lambda path: json.loads(next(lines(path)))["audited_at"])
stack, count = [], 0
for path in segments + [log]:
    for line in lines(path):
        if count == size:
            break
        stack.append(hashlib.sha256(b"\0" + line[:-1]).digest())
        count += 1
        number = count
        while number % 2 == 0:  # Two full trees of the same size become one.
            right, left = stack.pop(), stack.pop()
            stack.append(hashlib.sha256(b"\1" + left + right).digest())
            number //= 2
while len(stack) > 1:
    right, left = stack.pop(), stack.pop()
    stack.append(hashlib.sha256(b"\1" + left + right).digest())
if count != size or stack[-1:] != [root]:
    sys.exit(f"{log}: {count} of {size} entries, and they do not lead to the root of the checkpoint")
print(f"{log}: {size} entries of {origin} are as they were signed")
