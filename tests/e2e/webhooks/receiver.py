"""A receiver of webhooks that verifies each with the reference library of Standard Webhooks, and prints what came.

The first line is its port; each further one a webhook. It knows one secret, its argument. A webhook that does not verify is
answered 401.
"""

import http.server
import json
import sys

from standardwebhooks import Webhook, WebhookVerificationError

verifier = Webhook(sys.argv[1])


class Receiver(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        try:
            event = verifier.verify(body, dict(self.headers))
            said = {"id": self.headers["webhook-id"], "type": event["type"], "title": event["data"]["title"]}
        except WebhookVerificationError as error:
            said = {"refused": str(error)}
        print(json.dumps(said), flush=True)
        self.send_response(401 if "refused" in said else 204)
        self.end_headers()

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
print(server.server_port, flush=True)
server.serve_forever()
