"""The proxy before the SuperLink: nginx, the only part of the coordinator that the network can reach.

It demands a certificate of our authority, holds it to the node key that the request claims, and passes POST on ten
paths of the fleet API and on two of our own. Everything else, Flower's control and runtime APIs among it, does not
exist from outside.
"""

from __future__ import annotations

import base64
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from ecgshared.errors import ConfigError
from ecgshared.service.files import write_atomically

FLEET_PATHS = (
    "activate-node", "deactivate-node", "send-node-heartbeat", "pull-messages", "push-messages", "get-run", "get-fab",
    "push-object", "pull-object", "confirm-message-received",
)  # fmt: skip
OWN_PATHS = ("session", "renew")
"""What the coordinator itself answers sites, beside Flower's fleet API."""
NODE_KEY_HEADER = "flwr-public-key"
CERTIFICATE_HEADER = "ecgfed-certificate"
"""Which certificate a request came with; the proxy's word, whatever the request says."""
_PORT_SECONDS = 3.0
"""How long whoever was ended a moment ago may hold its port."""
LARGEST_REQUEST_MB = 8
"""Flower sends objects in pieces of 5 MB."""

_CONFIG = """\
# Written by `ecgfed coordinator up`; changes are lost. What may be changed stands in coordinator.yaml.
daemon off;
{user}worker_processes 1;
pid nginx.pid;
error_log stderr warn;
events {{ worker_connections 1024; }}
http {{
    map_hash_bucket_size 1024;
    log_format plain '$time_iso8601 $status $request_method $uri $request_length $bytes_sent $request_time '
                     '"$ssl_client_s_dn"';
    # Polls are many and tell nothing; what was refused does.
    map $status $refused {{ default 1; ~^2 0; }}
    access_log access.log plain if=$refused;
    client_body_temp_path temp; proxy_temp_path temp; fastcgi_temp_path temp; uwsgi_temp_path temp;
    scgi_temp_path temp;
    server_tokens off;
    # Far above what a daemon asks; a site that is out of its mind must not take the others' share.
    limit_req_zone $ssl_client_fingerprint zone=calls:10m rate=100r/s;
    limit_conn_zone $ssl_client_fingerprint zone=sites:10m;
    limit_req_status 429; limit_conn_status 429;
    large_client_header_buffers 4 8k;
    # A certificate speaks for one node key alone; a revoked site has no line.
    map "$ssl_client_fingerprint $http_{header}" $known_site {{
        default 0;
        include sites.map;
    }}
    upstream superlink {{
        server 127.0.0.1:{port};
        keepalive 32;
    }}
    server {{
        listen {listen} ssl;
        ssl_certificate "{certificate}";
        ssl_certificate_key "{key}";
        ssl_protocols TLSv1.2 TLSv1.3;
        ssl_client_certificate "{ca}";
        ssl_verify_client on;
        ssl_verify_depth 1;
        client_max_body_size {largest}m;
        client_body_timeout 60s; client_header_timeout 15s; send_timeout 60s;
        reset_timedout_connection on;
        location / {{ return 404; }}
        location ~ ^/v1/(?<call>fleet/({paths})|ecgfed/({own_paths}))$ {{
            limit_req zone=calls burst=400 nodelay;
            limit_conn sites 32;
            if ($request_method != POST) {{ return 404; }}
            if ($known_site = 0) {{ return 403; }}
            # Not the path as it was written: what was checked is what is asked.
            proxy_pass https://superlink/v1/$call;
            proxy_ssl_verify on;
            proxy_ssl_trusted_certificate "{ca}";
            proxy_ssl_name localhost;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            # One key, the one that was held to the certificate, however many a request names.
            proxy_set_header {header_name} $http_{header};
            proxy_set_header {certificate_header} $ssl_client_fingerprint;
            proxy_request_buffering off; proxy_buffering off;
            proxy_connect_timeout 5s; proxy_read_timeout 60s; proxy_send_timeout 60s;
            proxy_next_upstream off;
        }}
    }}
}}
"""


def write_config(
    folder: Path, *, listen: str, upstream_port: int, certificate: Path, key: Path, ca: Path, sites: Mapping[str, bytes]
) -> None:
    """Write nginx.conf and sites.map below ``folder``.

    Parameters
    ----------
    listen : address:port.
    sites : node key (as Flower's ``public_key_to_bytes`` gives it) by fingerprint of the certificate.
    """
    (folder / "temp").mkdir(parents=True, exist_ok=True, mode=0o700)
    text = _CONFIG.format(
        # Else the workers would be of a user that cannot read the folder.
        user="user root;\n" if os.name == "posix" and os.geteuid() == 0 else "",
        header=NODE_KEY_HEADER.replace("-", "_"),
        header_name=NODE_KEY_HEADER,
        port=upstream_port,
        listen=listen,
        certificate=certificate,
        key=key,
        ca=ca,
        certificate_header=CERTIFICATE_HEADER,
        paths="|".join(FLEET_PATHS),
        own_paths="|".join(OWN_PATHS),
        largest=LARGEST_REQUEST_MB,
    )
    write_atomically(folder / "nginx.conf", text.encode())
    write_sites(folder, sites)


def write_sites(folder: Path, sites: Mapping[str, bytes]) -> None:
    """Write who is let in; a running proxy reads it at :func:`reload`."""
    lines = [f'"{mark} {base64.b64encode(key).decode()}" 1;\n' for mark, key in sorted(sites.items())]
    write_atomically(folder / "sites.map", "".join(lines).encode())


def command(nginx: Path, folder: Path) -> list[str]:
    """Return the command that runs the proxy in the foreground."""
    return [str(nginx), "-p", f"{folder}/", "-c", str(folder / "nginx.conf"), "-e", "stderr"]


def check(nginx: Path, folder: Path) -> None:
    """Have nginx read its configuration, and see that its address is free.

    Raises
    ------
    ConfigError : with what nginx says, or that something else listens there.
    """
    done = subprocess.run([*command(nginx, folder), "-t"], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ConfigError("nginx does not accept its configuration", where=folder / "nginx.conf", value=done.stderr)
    # nginx passes over an address that is taken when it only reads its configuration.
    found = re.search(r"^ *listen (\S+):(\d+) ssl;$", (folder / "nginx.conf").read_text(encoding="utf-8"), re.MULTILINE)
    if found is not None:
        require_free(found[1], int(found[2]), "coordinator.yaml: listen")


def require_free(address: str, port: int, where: str) -> None:
    """Raise :class:`ConfigError` where something listens on an address already."""
    host = address.strip("[]")
    family, kind, protocol, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    end = time.monotonic() + _PORT_SECONDS
    while True:
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(place)
            except OSError as error:
                if time.monotonic() < end:
                    time.sleep(0.1)
                    continue
                raise ConfigError(
                    f"cannot listen on {address}:{port} ({error.strerror})",
                    where=where,
                    remedy=f"see who does: ss -ltnp 'sport = :{port}'; or choose another port",
                ) from None
        return


def reload(folder: Path) -> bool:
    """Make a running proxy read its files again; False where none runs."""
    try:
        os.kill(int((folder / "nginx.pid").read_text()), signal.SIGHUP)
    except (OSError, ValueError):
        return False
    return True


def find_nginx(given: Path | None) -> Path | None:
    """Return the nginx to use: the given one, or that of the PATH or /usr/sbin; None where there is none."""
    if given is not None:
        if not given.exists():
            raise ConfigError("there is no nginx here", where="coordinator.yaml: nginx", value=str(given))
        return given
    found = shutil.which("nginx", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"]))
    return None if found is None else Path(found)
