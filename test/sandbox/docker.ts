// Mail hosts with a real Docker. Runs inside enter.sh.
import { randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";

import { asker, containerAgent, engine, makeRoot, mustRun, questions, type Must } from "./containers";
import { agent, execute, once, startMailHost, type MailHost, type MailHostOptions } from "./host";
import type { Probe, Verdict } from "./probe";

/** A mail host on which dockerd runs. */
export interface DockerHost extends MailHost {
  /** Ends dockerd and its containers, and starts it again: as after a reboot, but the kernel's rules stay. */
  restartDocker(): Promise<void>;
  /** Starts a container that echoes on these ports of its own; `options` go to `docker run`, such as `-p 8993:993`. */
  startContainer(name: string, listen: { tcp: number[]; udp: number[] }, options: string): Promise<void>;
  /** Waits until a container that was started again answers on its ports. */
  answers(container: string): Promise<void>;
  /** What a container sees, from whichever address it has. */
  probeFrom(container: string, probes: Omit<Probe, "source">[]): Promise<Verdict[]>;
  /** Runs a command on the host that must succeed, and returns what it printed. */
  must: Must;
}

export interface DockerHostOptions extends MailHostOptions {
  /** Arguments of dockerd. */
  dockerd?: string[];
  /** `false`: dockerd is installed, but only runs after `restartDocker`. */
  running?: boolean;
}

// Containers are to be in a cgroup that can be found and removed. Version 2 is there on every machine, with or without
// controllers; the storage driver needs nothing of the file system. Docker's own clients see nothing of the test's environment.
const startDockerd = (cgroup: string, options: string[]): string => `
[ -e /sys/fs/cgroup/cgroup.procs ] || mount -t cgroup2 cgroup /sys/fs/cgroup || exit
dockerd --cgroup-parent=/${cgroup} --storage-driver=vfs ${options.join(" ")} >>/var/log/dockerd.log 2>&1 </dev/null &
until docker version >/dev/null 2>&1; do
  kill -0 $! || { cat /var/log/dockerd.log >&2; exit 1; }
  sleep 0.1
done`;

const stopDockerd = `
docker ps -q | xargs -r docker kill >/dev/null
kill "$(cat /run/docker.pid)"
while [ -e /run/docker.pid ]; do sleep 0.1; done`;

const makeImage = `${makeRoot("/run/image")}\ntar -c . | docker import - mail`;

export async function startDockerHost(options: DockerHostOptions = {}): Promise<DockerHost> {
  const cgroup = `mail-firewall-${randomUUID()}`;
  const host = await startMailHost({ ...options, usr: engine("docker") });

  const must = mustRun(host);
  const close = once(async () => {
    await host.close();
    // The kernel keeps a cgroup after its last process. This mount is of nobody but the shell.
    const remove = `mount -t cgroup2 cgroup /mnt && { [ ! -e /mnt/${cgroup} ] || find /mnt/${cgroup} -depth -type d -exec rmdir {} +; }`;
    const { code, stderr } = await execute("unshare", ["--mount", "--", "sh", "-c", remove]);
    if (code !== 0) throw new Error(`${cgroup}: ${stderr}`);
  });
  // What it has said in an earlier life counts no more. Its host must know it as a neighbour: else the first packets wait.
  const answers = async (container: string): Promise<void> => {
    await must(`since=$(docker inspect -f '{{.State.StartedAt}}' ${container})
      tries=0
      until docker logs --since "$since" ${container} 2>&1 | grep -q '^listening$'; do
        # One that fails is started again and again: it would be running whenever one looks.
        [ $((tries += 1)) -lt 300 ] || { docker logs --tail 20 ${container} >&2; exit 1; }
        sleep 0.1
      done
      for address in $(docker inspect -f '{{range .NetworkSettings.Networks}}{{.IPAddress}} {{.GlobalIPv6Address}} {{end}}' ${container}); do
        case $address in *:*) any=:: ;; *) any=0.0.0.0 ;; esac
        until echo "{\\"source\\":\\"$any\\",\\"target\\":\\"$address\\"}" | python3 ${containerAgent} ping 500 | grep -q true; do :; done
      done`);
  };
  const start = () => must(startDockerd(cgroup, options.dockerd ?? []));
  try {
    // Bridges are to have their IPv6 addresses at once.
    await must("echo 0 >/proc/sys/net/ipv6/conf/default/accept_dad");
    await must(`cat >${containerAgent}`, readFileSync(agent, "utf8"));
    await start();
    await must(makeImage);
    if (options.running === false) await must(stopDockerd);
  } catch (error) {
    await close();
    throw error;
  }

  return {
    ...host,
    must,
    close,
    answers,
    restartDocker: async () => {
      await must(`[ ! -e /run/docker.pid ] || {${stopDockerd}\n}`);
      await start();
    },
    startContainer: async (name, listen, runOptions) => {
      const command = `python3 -u ${containerAgent} listen '${JSON.stringify(listen)}'`;
      await must(`docker run -d --name ${name} -v /usr:/usr:ro ${runOptions} mail ${command}`);
      await answers(name);
    },
    probeFrom: async (container, probes) =>
      JSON.parse(await must(`docker exec -i ${container} ${asker}`, questions(probes))) as Verdict[],
  };
}
