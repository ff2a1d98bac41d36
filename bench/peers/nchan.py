"""nchan, the publish/subscribe module of nginx, in C: one worker, a configuration of its own.

Messages are kept only as long as a subscriber may still need them; nothing is logged.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.peers.peer import NotInstalledError, Peer, free_port, path_target, wait_port
from bench.process import running
from bench.target import Target

_MODULE = Path("/usr/lib/nginx/modules/ngx_nchan_module.so")
_CONF = """
{user}
load_module {module};
daemon off;
worker_processes 1;
pid {folder}/pid;
error_log stderr error;
events {{ worker_connections 20000; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  keepalive_requests 1000000000;
  nchan_shared_memory_size 512M;
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location ~ ^/sub/(\\d+)$ {{
      nchan_subscriber websocket;
      nchan_channel_id $1;
      nchan_subscriber_first_message newest;
    }}
    location ~ ^/pub/(\\d+)$ {{
      nchan_publisher http;
      nchan_channel_id $1;
      nchan_message_buffer_length 1000;
      nchan_message_timeout 5s;
    }}
  }}
}}
"""


@contextmanager
def start(_clients: int) -> Iterator[Target]:
    """Run nginx in the foreground with a temporary folder."""
    nginx = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if nginx is None or not _MODULE.exists():
        raise NotInstalledError("needs nginx with nchan: apt-get install libnginx-mod-nchan")
    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        user = "user root;" if os.geteuid() == 0 else ""
        conf = Path(folder) / "nginx.conf"
        conf.write_text(_CONF.format(folder=folder, port=port, module=_MODULE, user=user))
        with running([nginx, "-p", folder, "-c", str(conf), "-e", "stderr"]) as process:
            wait_port(port, process)
            yield path_target("nchan", (process,), port, port, subscribe="/sub/{room}", publish="/pub/{room}")


PEER = Peer("nchan", start, debian=("libnginx-mod-nchan",))
