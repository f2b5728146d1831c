// For aws.ts: what stands around a firewall in AWS, as little of each resource as a program needs to make and to remove it.
// What AWS refuses, such as a gateway that goes before the addresses behind it, is refused by the server: see ../ec2.ts.
import type * as Ec2 from "@aws-sdk/client-ec2";
import type * as Dns from "@aws-sdk/client-route-53";

type Props = Record<string, any>; // eslint-disable-line @typescript-eslint/no-explicit-any -- property bags of the engine

interface Clients {
  readonly ec2: Ec2.EC2;
  readonly dns: Dns.Route53;
  /** The resource's tags, as requests take them. */
  readonly tags: (type: Ec2.ResourceType) => { TagSpecifications?: Ec2.TagSpecification[] };
}

export interface Kind {
  /** Outputs that a preview does not know before the resource is there. */
  readonly computed: readonly string[];
  /** Inputs that change in place. All others replace. */
  readonly inPlace?: readonly string[];
  /** Why an update would be another one with the real provider. */
  readonly refuse?: (changed: readonly string[], news: Props) => string | undefined;
  readonly create: (inputs: Props, clients: Clients) => Promise<{ id: string; outs?: Props }>;
  readonly update?: (id: string, news: Props, olds: Props, clients: Clients) => Promise<Props>;
  readonly delete: (id: string, props: Props, clients: Clients) => Promise<unknown>;
}

/* eslint-disable @typescript-eslint/no-unsafe-assignment -- the engine's properties go to AWS as they are */

export const network: Readonly<Record<string, Kind>> = {
  "aws:ec2/vpc:Vpc": {
    computed: ["defaultSecurityGroupId", "mainRouteTableId"],
    async create({ cidrBlock: CidrBlock }, { ec2, tags }) {
      const { Vpc } = await ec2.createVpc({ CidrBlock, ...tags("vpc") });
      return { id: Vpc!.VpcId! };
    },
    delete: (VpcId, _, { ec2 }) => ec2.deleteVpc({ VpcId }),
  },

  "aws:ec2/subnet:Subnet": {
    computed: ["availabilityZone"],
    async create({ vpcId: VpcId, cidrBlock: CidrBlock }, { ec2, tags }) {
      const { Subnet } = await ec2.createSubnet({ VpcId, CidrBlock, ...tags("subnet") });
      return { id: Subnet!.SubnetId!, outs: { availabilityZone: Subnet!.AvailabilityZone } };
    },
    delete: (SubnetId, _, { ec2 }) => ec2.deleteSubnet({ SubnetId }),
  },

  "aws:ec2/internetGateway:InternetGateway": {
    computed: [],
    async create({ vpcId: VpcId }, { ec2, tags }) {
      const { InternetGateway } = await ec2.createInternetGateway({ ...tags("internet-gateway") });
      const id = InternetGateway!.InternetGatewayId!;
      await ec2.attachInternetGateway({ InternetGatewayId: id, VpcId });
      return { id };
    },
    async delete(InternetGatewayId, { vpcId: VpcId }, { ec2 }) {
      await ec2.detachInternetGateway({ InternetGatewayId, VpcId });
      await ec2.deleteInternetGateway({ InternetGatewayId });
    },
  },

  "aws:ec2/routeTable:RouteTable": {
    computed: [],
    async create({ vpcId: VpcId, routes = [] }, { ec2, tags }) {
      const { RouteTable } = await ec2.createRouteTable({ VpcId, ...tags("route-table") });
      const id = RouteTable!.RouteTableId!;
      for (const { cidrBlock, gatewayId } of routes as Props[])
        await ec2.createRoute({ RouteTableId: id, DestinationCidrBlock: cidrBlock, GatewayId: gatewayId });
      return { id };
    },
    delete: (RouteTableId, _, { ec2 }) => ec2.deleteRouteTable({ RouteTableId }),
  },

  "aws:ec2/routeTableAssociation:RouteTableAssociation": {
    computed: [],
    async create({ subnetId: SubnetId, routeTableId: RouteTableId }, { ec2 }) {
      const { AssociationId } = await ec2.associateRouteTable({ SubnetId, RouteTableId });
      return { id: AssociationId! };
    },
    delete: (AssociationId, _, { ec2 }) => ec2.disassociateRouteTable({ AssociationId }),
  },

  "aws:ec2/instance:Instance": {
    computed: ["privateIp", "publicIp", "primaryNetworkInterfaceId"],
    refuse: (changed, { userDataReplaceOnChange: replaces }) =>
      changed.includes("userData") && !replaces ? "stops and starts no instance for new userData" : undefined,
    async create(inputs, { ec2, tags }) {
      const { Instances } = await ec2.runInstances({
        ImageId: inputs.ami,
        InstanceType: inputs.instanceType,
        SubnetId: inputs.subnetId,
        SecurityGroupIds: inputs.vpcSecurityGroupIds,
        UserData: Buffer.from((inputs.userData as string | undefined) ?? "").toString("base64"),
        MinCount: 1,
        MaxCount: 1,
        ...tags("instance"),
      });
      const { InstanceId, PrivateIpAddress, NetworkInterfaces } = Instances![0]!;
      const primaryNetworkInterfaceId = NetworkInterfaces![0]!.NetworkInterfaceId;
      return { id: InstanceId!, outs: { privateIp: PrivateIpAddress, publicIp: "", primaryNetworkInterfaceId } };
    },
    delete: (id, _, { ec2 }) => ec2.terminateInstances({ InstanceIds: [id] }),
  },

  "aws:ec2/eip:Eip": {
    computed: ["publicIp", "allocationId", "associationId"],
    inPlace: ["instance"],
    async create({ instance: InstanceId }, { ec2, tags }) {
      const { AllocationId, PublicIp } = await ec2.allocateAddress({ Domain: "vpc", ...tags("elastic-ip") });
      const { AssociationId } = await ec2.associateAddress({ AllocationId, InstanceId });
      return {
        id: AllocationId!,
        outs: { allocationId: AllocationId, publicIp: PublicIp, associationId: AssociationId },
      };
    },
    async update(AllocationId, { instance: InstanceId }, _, { ec2 }) {
      const { AssociationId } = await ec2.associateAddress({ AllocationId, InstanceId, AllowReassociation: true });
      return { associationId: AssociationId };
    },
    async delete(AllocationId, { associationId: AssociationId }, { ec2 }) {
      await ec2.disassociateAddress({ AssociationId });
      await ec2.releaseAddress({ AllocationId });
    },
  },

  "aws:route53/record:Record": {
    computed: ["fqdn"],
    inPlace: ["records", "ttl"],
    async create(inputs, clients) {
      await changeRecord("CREATE", inputs, clients);
      return { id: [inputs.zoneId, inputs.name, inputs.type].join("_"), outs: { fqdn: inputs.name } };
    },
    async update(_, news, __, clients) {
      await changeRecord("UPSERT", news, clients);
      return {};
    },
    delete: (_, props, clients) => changeRecord("DELETE", props, clients),
  },
};

async function changeRecord(action: Dns.ChangeAction, props: Props, { dns }: Clients): Promise<void> {
  const { zoneId, name, type, ttl, records } = props;
  const quoted = (value: string) => (type === "TXT" ? `"${value}"` : value); // tf expandResourceRecords
  const ResourceRecords = (records as string[]).map((value) => ({ Value: quoted(value) }));
  await dns.changeResourceRecordSets({
    HostedZoneId: zoneId,
    ChangeBatch: {
      Changes: [{ Action: action, ResourceRecordSet: { Name: name, Type: type, TTL: ttl, ResourceRecords } }],
    },
  });
}
