"""receiver.py PORT SECRET-FILE: a webhook receiver that knows nothing of kas but the Standard Webhooks specification.

Prints, for each request, `{"id": …, "attempt": …, "body": …}`, or `{"refused": why}`. The first attempt of each third message
is answered with 503, to see it come again.
"""
import base64
import hashlib
import hmac
import http.server
import json
import pathlib
import socketserver
import sys
import time

SECRET = base64.b64decode(pathlib.Path(sys.argv[2]).read_text())
attempts = {}


class Receiver(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        identity, date = self.headers["webhook-id"], self.headers["webhook-timestamp"]
        signed = hmac.new(SECRET, f"{identity}.{date}.".encode() + body, hashlib.sha256).digest()
        wanted = "v1," + base64.b64encode(signed).decode()
        if not hmac.compare_digest(wanted, self.headers["webhook-signature"]):
            return self.answer(401, {"refused": "signature"})
        if abs(time.time() - int(date)) > 300:
            return self.answer(401, {"refused": "timestamp"})
        first = identity not in attempts
        attempts[identity] = attempts.get(identity, 0) + 1
        if first and len(attempts) % 3 == 1:
            return self.answer(503, {"refused": "at first"})
        self.answer(204, {"id": identity, "attempt": attempts[identity], "body": json.loads(body)})

    def answer(self, status, line):
        # In one piece, and before the answer, which lets the next request come on another thread.
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()
        self.send_response(status)
        self.end_headers()

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    def server_bind(self):
        """Unlike HTTPServer's, asks no name server."""
        socketserver.TCPServer.server_bind(self)


Server(("127.0.0.1", int(sys.argv[1])), Receiver).serve_forever()
