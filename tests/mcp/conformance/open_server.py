"""The product's server over HTTP without its token: official test suites cannot send one. For nothing else.

python tests/mcp/conformance/open_server.py PORT
"""

import sys

import uvicorn

from mcp_server.http import HOST
from mcp_server.server import build_server

if __name__ == "__main__":
    uvicorn.run(build_server().streamable_http_app(host=HOST), host=HOST, port=int(sys.argv[1]), log_level="warning")
