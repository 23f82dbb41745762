"""Settings in, a server out that plays in the browser, on the machine's own address unless told otherwise."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from riffusion_engine.errors import MissingExtraError
from riffusion_rt.cli.model_options import check_threads, model_options
from riffusion_rt.cli.prompt_file import ray_options

if TYPE_CHECKING:
    from riffusion_rt.server.service_settings import ServiceSettings

LOOPBACK = ("127.0.0.1", "localhost", "::1")
LOOK_S = 0.5
PORT = 3013
"""Where Riffusion's web app looks for its server."""


@click.command("serve", short_help="The page, the API and live sessions, over HTTP.")
@click.option("--host", default=LOOPBACK[0], show_default=True, help="Address to listen on; 0.0.0.0 is all.")
@click.option("--port", type=click.IntRange(1, 65535), default=PORT, show_default=True)
@click.option(
    "--api-key",
    envvar="RIFFUSION_API_KEY",
    metavar="KEY",
    help="Clients must show it.  [default: $RIFFUSION_API_KEY, or none]",
)
@click.option(
    "--allowed-host", "allowed_hosts", multiple=True, metavar="NAME", help="Another name of this server."
)
@click.option(
    "--cors", "allowed_origins", multiple=True, metavar="ORIGIN", help="A site whose pages may use the API."
)
@click.option("--client-header", metavar="NAME", help="A header in which a proxy in front names the client.")
@click.option("--at-once", type=int, help="Jobs under way together.  [default: 8]")
@click.option("--queue", "most_queued", type=int, help="Jobs that may wait.  [default: 256]")
@click.option("--live", "most_live", type=int, help="Live sessions at the same time.  [default: 4]")
@click.option("--rate", "requests_a_minute", type=int, help="Jobs a minute of one client.  [default: 600]")
@click.option("--deadline", "deadline_s", type=float, help="Seconds a job may take.  [default: 600]")
@click.option("--drain", "drain_s", type=float, help="Seconds to finish in when ended.  [default: 60]")
@click.option(
    "--rows", "rows_at_once", type=int, help="Rows in one run of the UNet.  [default: the device's]"
)
@click.option("--lanes", type=int, help="Runs of the UNet side by side.  [default: the CPU's cores]")
@click.option(
    "--folder", type=click.Path(path_type=Path, file_okay=False, exists=True), help="Where results lie."
)
@ray_options
@model_options
def command(
    host: str,
    port: int,
    model: str,
    device: str,
    threads: int | None,
    on_ray: bool,
    ray_address: str | None,
    replicas: str,
    gpus: float | None,
    cpus: float | None,
    **settings: Any,
) -> None:
    """Serve the page at http://127.0.0.1:3013, and Riffusion's own web app too.

    \b
      riffusion-rt serve
      riffusion-rt serve --host 0.0.0.0 --allowed-host music.example --api-key SECRET
      riffusion-rt serve --ray --replicas 1:4 --gpus 0.5

    SIGTERM lets accepted work be finished first.
    """
    check_threads(threads)
    try:
        from riffusion_rt.server.app import ServerApp
        from riffusion_rt.server.serving import listening_socket, make_server
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"The server needs {error.name}", hint="Install it: pip install 'riffusion-rt[server]'"
        ) from error
    from riffusion_rt.server.service_settings import ServiceSettings

    given = {name: value for name, value in settings.items() if value not in (None, ())}
    names = (*given.pop("allowed_hosts", ()), host, *LOOPBACK[:2], "[::1]")
    given["allowed_hosts"] = tuple(dict.fromkeys(names))
    chosen = ServiceSettings(model=model, device=device, threads=threads, **given)
    if on_ray:
        _serve_on_ray(host, port, chosen, given, ray_address, replicas, gpus, cpus)
        return
    app = ServerApp(chosen)
    with listening_socket(host, port) as listening:
        server = make_server(app, host, port)
        logging.basicConfig(format="%(levelname)-8s %(message)s")
        click.echo(f"riffusion-rt: http://{'localhost' if host in LOOPBACK else host}:{port}", err=True)
        server.run(sockets=[listening])
    if app.failed is not None:
        raise app.failed


def _serve_on_ray(
    host: str,
    port: int,
    chosen: ServiceSettings,
    given: dict[str, Any],
    address: str | None,
    replicas: str,
    gpus: float | None,
    cpus: float | None,
) -> None:
    """The same, with engines all over a cluster; returns when a signal has come and what was accepted is done."""
    from riffusion_rt.scale.cluster_settings import ClusterSettings, parse_replicas
    from riffusion_rt.scale.starting import LOCAL, cluster, deploy, finish, when_told_to_end
    from riffusion_rt.server.serving import listening_socket

    least, most = parse_replicas(replicas)
    names = {
        "gpus": gpus,
        "cpus": cpus,
        "at_once": given.pop("at_once", None),
        "live": given.pop("most_live", None),
    }
    wanted = {
        "least": least,
        "most": most,
        **{name: value for name, value in names.items() if value is not None},
    }
    ClusterSettings(**wanted)
    own: dict[str, Any] = {name: given.pop(name) for name in ("rows_at_once", "lanes") if name in given}
    model: dict[str, Any] = {"model": str(chosen.model), "device": chosen.device, "threads": chosen.threads}
    if address is None:
        # Elsewhere the door listens on the head node, which may be another machine.
        listening_socket(host, port).close()
    with cluster(address or LOCAL):
        from riffusion_rt.scale.applications import door, engines

        told = when_told_to_end()
        deploy(
            engines({**own, **model, "drain_s": chosen.drain_s, "cluster": wanted}),
            door({**given, "cluster": wanted}),
            host=host,
            port=port,
        )
        click.echo(f"riffusion-rt: http://{'localhost' if host in LOOPBACK else host}:{port}", err=True)
        # In short waits: a signal is heard between them.
        while not told.wait(LOOK_S):
            pass
        finish(chosen.drain_s)
