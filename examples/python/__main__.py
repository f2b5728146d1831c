import pulumi
import pulumi_mail_firewall as mail_firewall

config = pulumi.Config()

firewall = mail_firewall.MailFirewall(
    "mail",
    services={"submissions": ["public"], "imaps": ["public"], "https": ["public"]},
    ports={"wireguard": {"protocol": "udp", "port": 51820, "from_": ["public"]}},
    ssh=config.require_object("ssh"),
    ssh_private_key=config.get_secret("sshPrivateKey"),  # or an SSH agent
    hosts={"mx1": {"host": config.require("host"), "host_key": config.require("hostKey")}},
)

pulumi.export("exposure", firewall.exposure)
pulumi.export("hosts", firewall.hosts)
