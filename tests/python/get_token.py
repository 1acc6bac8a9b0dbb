"""Gets an access token from a vault that this program knows nothing of.

It has no .proto file and no generated code: what TokenService is, it asks the
vault (gRPC reflection). It identifies itself with a client certificate.

Prints `token <length>` when it has a token, `refused <code> <reason>` when the
vault refuses. The token itself is not printed.
"""

import argparse
import pathlib

import grpc
from google.protobuf import descriptor_pool, message_factory
from google.rpc import error_details_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_status import rpc_status

SERVICE = "obovault.v1.TokenService"
METHOD = "GetAccessToken"


def main() -> None:
    arguments = parse()
    credentials = grpc.ssl_channel_credentials(
        root_certificates=arguments.ca.read_bytes(),
        private_key=arguments.key.read_bytes(),
        certificate_chain=arguments.certificate.read_bytes(),
    )
    with grpc.secure_channel(arguments.target, credentials) as channel:
        call, request = discover(channel)
        message = request(
            tenant=arguments.tenant,
            subject=arguments.subject,
            client=arguments.client,
            scopes=arguments.scope,
        )
        try:
            answer = call(message, timeout=30)
        except grpc.RpcError as error:
            print("refused", error.code().name, reason(error))
        else:
            print("token", len(answer.access_token))


def discover(channel: grpc.Channel):
    """The method and the type of its request, as the vault describes them."""
    database = ProtoReflectionDescriptorDatabase(channel)
    assert SERVICE in database.get_services(), "the vault does not tell of its TokenService"
    pool = descriptor_pool.DescriptorPool(database)
    method = pool.FindServiceByName(SERVICE).methods_by_name[METHOD]
    request = message_factory.GetMessageClass(method.input_type)
    answer = message_factory.GetMessageClass(method.output_type)
    call = channel.unary_unary(
        f"/{SERVICE}/{METHOD}",
        request_serializer=request.SerializeToString,
        response_deserializer=answer.FromString,
    )
    return call, request


def reason(error: grpc.RpcError) -> str:
    """The stable word in the error's details."""
    status = rpc_status.from_call(error)
    for detail in status.details if status else []:
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            return info.reason
    return "without-reason"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", required=True, help="host:port")
    parser.add_argument("--ca", required=True, type=pathlib.Path, help="who issued the vault's certificate, PEM")
    parser.add_argument("--certificate", required=True, type=pathlib.Path, help="this caller's certificate, PEM")
    parser.add_argument("--key", required=True, type=pathlib.Path, help="its private key, PEM")
    parser.add_argument("--tenant", required=True)
    parser.add_argument("--subject", required=True)
    parser.add_argument("--client", required=True)
    parser.add_argument("--scope", action="append", default=[])
    return parser.parse_args()


if __name__ == "__main__":
    main()
