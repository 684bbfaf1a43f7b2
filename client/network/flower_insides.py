"""Every name of Flower's insides that a hospital's side uses, pinned to Flower 1.41; a contract test holds them."""

from __future__ import annotations

from flwr.app.message import array as _array
from flwr.app.message import remove_content_from_message as remove_content_from_message
from flwr.common.serde import fab_from_proto as fab_from_proto
from flwr.common.serde import message_from_proto as message_from_proto
from flwr.common.serde import message_to_proto as message_to_proto
from flwr.common.serde import run_from_proto as run_from_proto
from flwr.proto.fab_pb2 import GetFabRequest as GetFabRequest
from flwr.proto.fleet_pb2 import ActivateNodeRequest as ActivateNodeRequest
from flwr.proto.fleet_pb2 import DeactivateNodeRequest as DeactivateNodeRequest
from flwr.proto.fleet_pb2 import PullMessagesRequest as PullMessagesRequest
from flwr.proto.fleet_pb2 import PullMessagesResponse as PullMessagesResponse
from flwr.proto.fleet_pb2 import PushMessagesRequest as PushMessagesRequest
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest as SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest as ConfirmMessageReceivedRequest
from flwr.proto.message_pb2 import ObjectTree as ObjectTree
from flwr.proto.node_pb2 import Node as Node
from flwr.proto.run_pb2 import GetRunRequest as GetRunRequest
from flwr.supercore.error import ApiErrorCode as ApiErrorCode
from flwr.supercore.error import FlowerError as FlowerError
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects as get_all_nested_objects
from flwr.supercore.inflatable.inflatable_object import get_object_body as get_object_body
from flwr.supercore.inflatable.inflatable_object import (
    get_object_head_values_from_object_content as get_object_head_values_from_object_content,
)
from flwr.supercore.inflatable.inflatable_object import get_object_id as get_object_id
from flwr.supercore.inflatable.inflatable_object import get_object_tree as get_object_tree
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree as iterate_object_tree
from flwr.supercore.inflatable.inflatable_object import no_object_id_recompute as no_object_id_recompute
from flwr.supercore.inflatable.inflatable_protobuf_utils import (
    make_pull_object_fn_protobuf as make_pull_object_fn_protobuf,
)
from flwr.supercore.inflatable.inflatable_protobuf_utils import (
    make_push_object_fn_protobuf as make_push_object_fn_protobuf,
)
from flwr.supercore.inflatable.inflatable_utils import ObjectPullError as ObjectPullError
from flwr.supercore.inflatable.inflatable_utils import ObjectPushError as ObjectPushError
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents as inflate_object_from_contents
from flwr.supercore.inflatable.inflatable_utils import pull_objects as pull_objects
from flwr.supercore.primitives.asymmetric import public_key_to_bytes as public_key_to_bytes
from flwr.supercore.runtime_version_compatibility import RuntimeVersionMetadata as RuntimeVersionMetadata
from flwr.supercore.task_identity import TaskIdentity as TaskIdentity
from flwr.supernode.fleet_http_client import FleetHttpClient as FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor as NodeAuthHttpInterceptor


def cut_into(piece_bytes: int) -> None:
    """Have arrays taken apart into pieces of at most so many bytes from now on."""
    _array.FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE = piece_bytes  # type: ignore[attr-defined]
