"""What a program in Python sends to the engine: printed, without one. mypy reads it, too: an `ignore` of nothing is an error."""

import json
from typing import NoReturn

import pulumi


class Mocks(pulumi.runtime.Mocks):
    def new_resource(self, args: pulumi.runtime.MockResourceArgs) -> tuple[str, dict[str, object]]:
        print(json.dumps(args.inputs))
        return args.name, {}

    def call(self, args: pulumi.runtime.MockCallArgs) -> NoReturn:
        raise NotImplementedError(args.token)


pulumi.runtime.set_mocks(Mocks())

import pulumi_mail_firewall as mail_firewall


@pulumi.runtime.test
def everything() -> pulumi.Output[str]:
    return mail_firewall.MailFirewall(
        "mail",
        services={"hosts_at_once": ["public"]},
        ports={
            "host_key": {"protocol": "tcp", "port": 1, "from_": ["public"]},
            "hostKey": mail_firewall.PortArgs(protocol="tcp", port=1, from_=["public"]),
        },
        ssh=["public"],
        ssh_private_key="key",
        hosts={"host_key": {"host": "h", "host_key": "k", "bastion": {"host": "b", "host_key": "k"}}},
        hosts_at_once=True,
        host={"rollback_seconds": 60},
        aws={"vpc_id": pulumi.Output.from_input("vpc"), "tags": {"host_key": "1", "hostKey": "2"}},
    ).urn


def wrong() -> None:
    mail_firewall.MailFirewall("services are no list", ssh=["public"], services=["imaps"])  # type: ignore[call-overload]
    mail_firewall.HostArgs(host="h", hostKey="k")  # type: ignore[call-arg]


everything()
