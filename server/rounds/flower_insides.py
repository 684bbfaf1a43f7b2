"""Every name of Flower's insides that the coordinator's side and the simulation use; a contract test holds them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from flwr.app.message import make_message as make_message
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode as ErrorCode
from flwr.common.serde import fab_to_proto as fab_to_proto
from flwr.proto.control_pb2 import ListNodesRequest as ListNodesRequest
from flwr.proto.control_pb2 import ListRunsRequest as ListRunsRequest
from flwr.proto.control_pb2 import RegisterNodeRequest as RegisterNodeRequest
from flwr.proto.control_pb2 import StartRunRequest as StartRunRequest
from flwr.proto.control_pb2 import StopRunRequest as StopRunRequest
from flwr.proto.control_pb2 import UnregisterNodeRequest as UnregisterNodeRequest
from flwr.proto.fleet_pb2 import PullMessagesRequest as PullMessagesRequest
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest as ConfirmMessageReceivedRequest
from flwr.proto.runtime_pb2 import PullAppMessagesRequest as PullAppMessagesRequest
from flwr.proto.runtime_pb2 import PushAppMessagesRequest as PushAppMessagesRequest
from flwr.serverapp import ServerApp
from flwr.supercore.constant import NOOP_FEDERATION_ID as NOOP_FEDERATION_ID
from flwr.supercore.constant import TASK_TOKEN_HEADER as TASK_TOKEN_HEADER
from flwr.supercore.control import ControlHttpClient as ControlHttpClient
from flwr.supercore.fab import Fab as Fab
from flwr.supercore.inflatable.inflatable_object import get_object_body as get_object_body
from flwr.supercore.inflatable.inflatable_object import (
    get_object_children_ids_from_object_content as get_object_children_ids_from_object_content,
)
from flwr.supercore.inflatable.inflatable_object import (
    get_object_type_from_object_content as get_object_type_from_object_content,
)
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree as iterate_object_tree
from flwr.supercore.inflatable.inflatable_protobuf_utils import (
    make_pull_object_fn_protobuf as make_pull_object_fn_protobuf,
)
from flwr.supercore.inflatable.inflatable_utils import ObjectPullError as ObjectPullError
from flwr.supercore.inflatable.inflatable_utils import ObjectUnavailableError as ObjectUnavailableError
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents as inflate_object_from_contents
from flwr.supercore.interceptors.http.runtime_version import (
    RuntimeVersionHttpInterceptor as RuntimeVersionHttpInterceptor,
)
from flwr.supercore.interceptors.http.utils import add_headers as add_headers
from flwr.supercore.protobuf.client import ProtobufCall as ProtobufCall
from flwr.supercore.protobuf.client import ProtobufRequestContext as ProtobufRequestContext
from flwr.supercore.run import Run as Run
from flwr.supercore.run import RunNotRunningException as RunNotRunningException
from flwr.supercore.task_identity import TaskIdentity as TaskIdentity
from flwr.superlink.grid.http_grid import HttpGrid as HttpGrid


def envelope_of(folder: Path) -> bytes:
    """Return the envelope as Flower builds it from a folder. Its command line is loaded with it, hence not before."""
    from flwr.cli.build import build_fab_from_disk

    return bytes(build_fab_from_disk(folder))


def run_superlink(wrap: Callable[[Any], Any]) -> None:
    """Run Flower's command ``flower-superlink``, its application wrapped."""
    from flwr.superlink import main as application
    from flwr.superlink.cli import flower_superlink

    create_app = application.create_app
    application.create_app = lambda *arguments, **options: wrap(create_app(*arguments, **options))
    flower_superlink()


def run_on_ray(*, server_app: ServerApp, client_app: ClientApp, num_supernodes: int) -> None:
    """Run Flower's own simulation; Ray is an extra, hence loaded here alone."""
    from flwr.simulation.run_simulation import run_simulation

    run_simulation(server_app=server_app, client_app=client_app, num_supernodes=num_supernodes)
