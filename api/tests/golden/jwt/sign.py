"""Makes the JWTs of the tests, as PyJWT signs them: see README.md. Run again, it makes other keys."""

import base64
import hmac
import json
import pathlib

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

here = pathlib.Path(__file__).parent
rsa_key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
weak_key = rsa.generate_private_key(public_exponent=65537, key_size=1024)
ec_key = ec.generate_private_key(ec.SECP256R1())
ed_key = ed25519.Ed25519PrivateKey.generate()
other_key = ec.generate_private_key(ec.SECP256R1())


def jwk(algorithm, key, **more):
    return {**json.loads(algorithm.to_jwk(key.public_key())), "use": "sig", **more}


KEYS = {
    "keys": [
        jwk(jwt.algorithms.RSAAlgorithm, rsa_key, kid="rsa", alg="RS256"),
        jwk(jwt.algorithms.ECAlgorithm, ec_key, kid="ec"),
        jwk(jwt.algorithms.OKPAlgorithm, ed_key, kid="ed", alg="EdDSA"),
        # What is not taken: too short, for encryption, a secret, and of a later version.
        jwk(jwt.algorithms.RSAAlgorithm, weak_key, kid="weak"),
        jwk(jwt.algorithms.ECAlgorithm, other_key, kid="encryption") | {"use": "enc"},
        {"kty": "oct", "kid": "secret", "k": base64.urlsafe_b64encode(b"x" * 32).decode().rstrip("=")},
        {"kty": "AKP", "kid": "later", "pub": "AAAA"},
    ]
}
(here / "jwks.json").write_text(json.dumps(KEYS, indent=2) + "\n")

GOOD = {
    "iss": "https://issuer.example.org",
    "aud": ["https://other.example.org", "task-api"],
    "sub": "zoë|7",
    "exp": 32503680000,
    "nbf": 1577836800,
    "scope": "openid read write",
}


def sign(key, algorithm, kid, headers=None, **claims):
    claims = {name: value for name, value in {**GOOD, **claims}.items() if value is not None}
    return jwt.encode(claims, key, algorithm, headers={"kid": kid, **(headers or {})})


def part(value):
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


def hs256(secret, kid):
    """PyJWT refuses to sign so."""
    signed = ".".join([part({"alg": "HS256", "typ": "JWT", "kid": kid}), part(GOOD)])
    digest = hmac.digest(secret, signed.encode(), "sha256")
    return signed + "." + base64.urlsafe_b64encode(digest).decode().rstrip("=")


public_der = rsa_key.public_key().public_bytes(
    serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
)
rs256 = sign(rsa_key, "RS256", "rsa")
head, payload, signature = rs256.split(".")
TOKENS = {
    "good-rs256": rs256,
    "good-es256": sign(ec_key, "ES256", "ec"),
    "good-eddsa": sign(ed_key, "EdDSA", "ed"),
    "good-one-audience": sign(ec_key, "ES256", "ec", aud="task-api"),
    "read-scp-list": sign(ec_key, "ES256", "ec", scope=None, scp=["read", "else"]),
    "read-scp-text": sign(ec_key, "ES256", "ec", scope=None, scp="read else"),
    "none-no-scope": sign(ec_key, "ES256", "ec", scope=None),
    "bad-expired": sign(ec_key, "ES256", "ec", exp=1577836800),
    "bad-not-yet": sign(ec_key, "ES256", "ec", nbf=32503680000),
    "bad-no-expiry": sign(ec_key, "ES256", "ec", exp=None),
    "bad-issuer": sign(ec_key, "ES256", "ec", iss="https://issuer.example.org.evil.org"),
    "bad-no-issuer": sign(ec_key, "ES256", "ec", iss=None),
    "bad-audience": sign(ec_key, "ES256", "ec", aud="https://other.example.org"),
    "bad-no-audience": sign(ec_key, "ES256", "ec", aud=None),
    "bad-no-subject": sign(ec_key, "ES256", "ec", sub=None),
    "bad-subject": sign(ec_key, "ES256", "ec", sub="a\nb"),
    "bad-long-subject": sign(ec_key, "ES256", "ec", sub="x" * 300),
    "bad-signer": sign(other_key, "ES256", "ec"),
    "bad-kid": sign(ec_key, "ES256", "unknown"),
    "bad-kid-of-another-key": sign(ec_key, "ES256", "rsa"),
    "bad-no-kid": jwt.encode(GOOD, ec_key, "ES256"),
    "bad-algorithm": sign(rsa_key, "RS512", "rsa"),
    "bad-padding-scheme": sign(rsa_key, "PS256", "rsa"),
    "bad-weak-key": sign(weak_key, "RS256", "weak"),
    "bad-key-for-encryption": sign(other_key, "ES256", "encryption"),
    "bad-secret": sign(b"x" * 32, "HS256", "secret"),
    "bad-public-key-as-secret": hs256(public_der, "rsa"),
    "bad-critical-header": sign(ec_key, "ES256", "ec", headers={"crit": ["exp"]}),
    "bad-payload": ".".join([head, part(GOOD | {"sub": "admin"}), signature]),
    "bad-unsigned": ".".join([part({"alg": "none", "typ": "JWT", "kid": "rsa"}), payload, ""]),
    "bad-shape": rs256 + ".x",
}
(here / "tokens.json").write_text(json.dumps(TOKENS, indent=2) + "\n")
