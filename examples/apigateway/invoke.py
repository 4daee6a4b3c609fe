"""Runs Lambda functions behind the path at which Lambda, and its runtime interface emulator, invoke them.

    python3 invoke.py [--port 9001] NAME=FILE.py ...

POST http://127.0.0.1:9001/2015-03-31/functions/NAME/invocations calls lambda_handler of FILE.py with the
body as the event and answers what it returns; if it raises, the answer has X-Amz-Function-Error and says
what. Requests are served side by side. The first line on stdout is the address. For examples and tests.
"""
import argparse
import importlib.util
import json
import pathlib
import sys
import traceback
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

PREFIX, SUFFIX = "/2015-03-31/functions/", "/invocations"


def load(file):
    file = pathlib.Path(file).resolve()
    if str(file.parent) not in sys.path:
        sys.path.insert(0, str(file.parent))  # so that functions can import their neighbours
    spec = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(file.stem, module)
    spec.loader.exec_module(module)
    return module.lambda_handler


class Context:
    """What functions look at of Lambda's context."""

    def __init__(self, name):
        self.function_name = name
        self.aws_request_id = str(uuid.uuid4())


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    functions = {}

    def do_POST(self):
        event = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = urlsplit(self.path).path
        name = unquote(path[len(PREFIX):-len(SUFFIX)])
        if not (path.startswith(PREFIX) and path.endswith(SUFFIX)) or name not in self.functions:
            self.answer(404, {"Type": "User", "Message": f"Function not found: {name}"})
            return
        try:
            result = self.functions[name](json.loads(event), Context(name))
            self.answer(200, result)
        except Exception as e:  # whatever a function raises is its answer
            traceback.print_exc()
            self.answer(200, {"errorMessage": str(e), "errorType": type(e).__name__,
                              "stackTrace": traceback.format_tb(e.__traceback__)}, error="Unhandled")

    def answer(self, status, result, error=None):
        body = json.dumps(result).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if error:
            self.send_header("X-Amz-Function-Error", error)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format, *args):
        pass  # functions log by themselves


def main():
    parser = argparse.ArgumentParser(description="Runs Lambda functions for a gateway on this machine.")
    parser.add_argument("--port", type=int, default=9001, help="0 chooses a free one")
    parser.add_argument("functions", nargs="+", metavar="NAME=FILE.py")
    arguments = parser.parse_args()
    for function in arguments.functions:
        name, _, file = function.partition("=")
        Handler.functions[name] = load(file)
    server = ThreadingHTTPServer(("127.0.0.1", arguments.port), Handler)
    server.daemon_threads = True
    print(f"http://127.0.0.1:{server.server_address[1]}", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
