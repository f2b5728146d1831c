// Mail hosts with a real Podman. Runs inside enter.sh.
import { readFileSync } from "node:fs";

import { asker, containerAgent, engine, makeRoot, mustRun, questions, type Must } from "./containers";
import { agent, startMailHost, type MailHost, type MailHostOptions } from "./host";
import type { Probe, Verdict } from "./probe";

/** A mail host on which root runs containers by Podman, in a network `mail` of both families. */
export interface PodmanHost extends MailHost {
  /** Starts a container that echoes on these ports of its own; `options` go to `podman run`, such as `-p 8993:993`. */
  startContainer(name: string, listen: { tcp: number[]; udp: number[] }, options: string): Promise<void>;
  /** Restarts a container, and waits until it listens again. */
  restart(name: string): Promise<void>;
  /** What a container sees, from whichever address it has. */
  probeFrom(container: string, probes: Omit<Probe, "source">[]): Promise<Verdict[]>;
  /** Runs a command on the host that must succeed, and returns what it printed. */
  must: Must;
}

/** What the packages would have put into /etc/containers, for a host that has no file system of its own and no control groups. */
const settings = {
  "policy.json": '{"default":[{"type":"insecureAcceptAnything"}]}',
  "storage.conf": '[storage]\ndriver = "vfs"\nrunroot = "/run/containers"\ngraphroot = "/run/graph"\n',
  "containers.conf": `[containers]
cgroups = "disabled"
log_driver = "k8s-file"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "none"
`,
};

export async function startPodmanHost(options: MailHostOptions = {}): Promise<PodmanHost> {
  const host = await startMailHost({ ...options, usr: engine("podman") });
  const must = mustRun(host);
  try {
    // Bridges are to have their IPv6 addresses at once.
    await must("echo 0 >/proc/sys/net/ipv6/conf/default/accept_dad; mkdir -p /etc/containers");
    for (const [name, text] of Object.entries(settings)) await must(`cat >/etc/containers/${name}`, text);
    await must(`cat >${containerAgent}`, readFileSync(agent, "utf8"));
    await must("[ -e /sys/fs/cgroup/cgroup.procs ] || mount -t cgroup2 cgroup /sys/fs/cgroup"); // or crun refuses to start
    await must("podman network create --disable-dns --ipv6 --subnet 10.89.5.0/24 --subnet fd00:d0c::/64 mail");
  } catch (error) {
    await host.close();
    throw error;
  }
  /** Until it has said so as many times. */
  const listens = (name: string, times: number) =>
    must(
      `for _ in $(seq 100); do [ "$(podman logs ${name} | grep -c '^listening$')" != ${times} ] || exit 0; sleep 0.1; done; exit 1`,
    );
  return {
    ...host,
    must,
    probeFrom: async (container, probes) =>
      JSON.parse(await must(`podman exec -i ${container} ${asker}`, questions(probes))) as Verdict[],
    startContainer: async (name, listen, runOptions) => {
      await must(makeRoot(`/run/${name}`));
      const command = `python3 -u ${containerAgent} listen '${JSON.stringify(listen)}'`;
      await must(`podman run -d --name ${name} -v /usr:/usr:ro ${runOptions} --rootfs /run/${name} ${command}`);
      await listens(name, 1);
    },
    restart: async (name) => {
      const before = Number(await must(`podman logs ${name} | grep -c '^listening$'`));
      await must(`podman restart -t 0 ${name}`);
      await listens(name, before + 1);
    },
  };
}
