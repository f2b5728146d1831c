"""The network ends of the sandbox: `agent.py listen` and `count` on a mail host; on a client `agent.py probe MS`, `ping MS`,
`forge MS`, `deliver MS`, `read MS`, `flow` and `watch`.

Input and output are JSON. Only the standard library is used: this runs with whatever python3 the machine has.
"""

import asyncio
import collections
import ipaddress
import json
import os
import resource
import socket
import struct
import sys
import time

KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}
RECVERR = {socket.AF_INET: (socket.IPPROTO_IP, 11), socket.AF_INET6: (socket.IPPROTO_IPV6, 25)}  # not in socket yet


def make_socket(kind, address, port, protocol=0):
    """A socket bound to the address, of one family only: a listener on :: must not answer for IPv4."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, kind, protocol)
    if family == socket.AF_INET6 and kind != socket.SOCK_RAW:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    if kind == socket.SOCK_STREAM and port:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setblocking(False)
    try:
        sock.bind((address, port))
    except OSError as error:
        raise SystemExit(f"agent.py: cannot bind {address} port {port}: {error.strerror}")
    return sock


SO_RCVBUFFORCE = 33  # not in socket


def hold_all(sock):
    """Enough room for what arrives while Python is not running: who counts packets must lose none in a buffer."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 32 << 20)
    except PermissionError:  # root of a container may not; what the kernel gives anyone is enough for probes
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32 << 20)


async def end_of_input():
    loop = asyncio.get_running_loop()
    await loop.run_in_executor(None, sys.stdin.read)


# --- listen: {"tcp": [port…], "udp": [port…]} as argument; prints "listening" when all ports answer


async def echo(reader, writer):
    """Sends back what it gets until the peer closes, so that a test can hold a session open and see it live."""
    try:
        while data := await reader.read(4096):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()


class EchoDatagrams(asyncio.DatagramProtocol):
    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, peer):
        self.transport.sendto(data, peer)


async def listen(ports):
    loop = asyncio.get_running_loop()
    for address in ("0.0.0.0", "::"):
        for port in ports["tcp"]:
            # A whole batch of probes may go to one port: with a short queue some would look dropped.
            await asyncio.start_server(echo, sock=make_socket(socket.SOCK_STREAM, address, port), backlog=4096)
        for port in ports["udp"]:
            sock = make_socket(socket.SOCK_DGRAM, address, port)
            hold_all(sock)
            await loop.create_datagram_endpoint(EchoDatagrams, sock=sock)
    print("listening", flush=True)
    await asyncio.Event().wait()


# --- count: like listen, but says nothing to anyone; prints "listening", and when stdin ends {"PROTOCOL/PORT": how many came}


class CountDatagrams(asyncio.DatagramProtocol):
    def __init__(self, seen):
        self.datagram_received = lambda data, peer: seen()


async def count(ports):
    loop = asyncio.get_running_loop()
    counts = {f"{protocol}/{port}": 0 for protocol in KINDS for port in ports[protocol]}

    def counter(name):
        def seen(*streams):
            counts[name] += 1
            for stream in streams[1:]:
                stream.close()

        return seen

    for address in ("0.0.0.0", "::"):
        for port in ports["tcp"]:
            sock = make_socket(socket.SOCK_STREAM, address, port)
            await asyncio.start_server(counter(f"tcp/{port}"), sock=sock, backlog=4096)
        for port in ports["udp"]:
            sock = make_socket(socket.SOCK_DGRAM, address, port)
            hold_all(sock)
            await loop.create_datagram_endpoint(lambda: CountDatagrams(counter(f"udp/{port}")), sock=sock)
    print("listening", flush=True)
    await end_of_input()
    print(json.dumps(counts))


# --- flow: {source, target, udp, connect, sessions: {port: seconds}, closed: {tcp, udp}, rate} on stdin, as one line for each flow
# and an empty one; prints "flowing", and when stdin ends one report for each


async def every(seconds, stop, action):
    """At a steady rate: what the machine held up is made up for."""
    due = time.monotonic()
    while not stop.is_set():
        action()
        due += seconds
        await asyncio.sleep(max(0, due - time.monotonic()))


class Flow:
    """What one client has from one mail host at the same time; each part counts what it asked and what came back."""

    def __init__(self, order):
        self.order = order
        self.tasks = set()
        self.report = {"datagrams": [0, 0], "connections": [0, 0], "slowest": 0, "sessions": {}, "knocks": 0, "leaks": 0}

    def spawn(self, coroutine):
        task = asyncio.create_task(coroutine)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def socket(self, protocol, port):
        sock = make_socket(KINDS[protocol], self.order["source"], 0)
        if protocol == "udp":
            hold_all(sock)
            sock.connect((self.order["target"], port))
        return sock

    async def datagrams(self, stop, port, rate):
        """Numbered, so that neither a double nor a late one hides a loss."""
        sent, seen = 0, set()
        sock = self.socket("udp", port)

        def take():
            while True:
                try:
                    seen.add(sock.recv(64))
                except OSError:
                    return

        asyncio.get_running_loop().add_reader(sock, take)

        def send():
            nonlocal sent
            try:
                sock.send(b"%d" % sent)
            except OSError:
                pass  # an ICMP error to an earlier one: that one counts as lost, and so does this
            sent += 1

        await every(1 / rate, stop, send)
        await asyncio.sleep(0.5)
        self.report["datagrams"] = [sent, len(seen)]

    async def connection(self, port):
        loop = asyncio.get_running_loop()
        self.report["connections"][0] += 1
        with self.socket("tcp", 0) as sock:
            # A reset instead of a goodbye: thousands would wait for their ports.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            start = time.monotonic()
            try:
                await asyncio.wait_for(loop.sock_connect(sock, (self.order["target"], port)), 8)
                self.report["connections"][1] += 1
            except (OSError, asyncio.TimeoutError):
                pass
            self.report["slowest"] = max(self.report["slowest"], round(1000 * (time.monotonic() - start)))

    async def session(self, stop, port, pause):
        """One connection that lives on, and says something after each pause. Ends at its first failure."""
        loop = asyncio.get_running_loop()
        words = self.report["sessions"][port] = [0, 0]
        with self.socket("tcp", 0) as sock:
            try:
                await asyncio.wait_for(loop.sock_connect(sock, (self.order["target"], int(port))), 8)
                while True:
                    last = stop.is_set()
                    words[0] += 1
                    await loop.sock_sendall(sock, b"word")
                    await asyncio.wait_for(loop.sock_recv(sock, 64), 8)
                    words[1] += 1
                    if last:
                        return
                    try:
                        await asyncio.wait_for(stop.wait(), pause)
                    except asyncio.TimeoutError:
                        pass
            except (OSError, asyncio.TimeoutError):
                pass

    async def knock(self, protocol, port):
        """At a closed port. Shorter than the wait for a second SYN."""
        loop = asyncio.get_running_loop()
        self.report["knocks"] += 1
        with self.socket(protocol, port) as sock:
            try:
                if protocol == "udp":
                    sock.send(b"knock")
                else:
                    await asyncio.wait_for(loop.sock_connect(sock, (self.order["target"], port)), 0.3)
                    self.report["leaks"] += 1
            except (OSError, asyncio.TimeoutError):
                pass

    async def run(self, stop):
        order = self.order
        parts = [self.session(stop, port, pause) for port, pause in order.get("sessions", {}).items()]
        if "udp" in order:
            parts.append(self.datagrams(stop, order["udp"], order["rate"]))
        if "connect" in order:
            parts.append(every(2 / order["rate"], stop, lambda: self.spawn(self.connection(order["connect"]))))
        for protocol, port in order.get("closed", {}).items():
            parts.append(every(2 / order["rate"], stop, lambda p=protocol, n=port: self.spawn(self.knock(p, n))))
        await asyncio.gather(*parts)
        await asyncio.gather(*self.tasks)
        return self.report


async def flow():
    stop = asyncio.Event()
    flows = [Flow(json.loads(line)) for line in iter(sys.stdin.readline, "\n")]
    running = asyncio.gather(*(one.run(stop) for one in flows))
    print("flowing", flush=True)
    await end_of_input()
    stop.set()
    print(json.dumps(await running))


# --- probe: [{source, target, protocol, port}…] on stdin; prints [verdict…]


async def attempt(sock, probe):
    loop = asyncio.get_running_loop()
    await loop.sock_connect(sock, (probe["target"], probe["port"]))
    sock.getpeername()  # an error where sock_connect was only woken by RECVERR
    if probe["protocol"] == "udp":
        await loop.sock_sendall(sock, b"probe")
        await loop.sock_recv(sock, 64)


async def verdict(probe, timeout):
    with make_socket(KINDS[probe["protocol"]], probe["source"], 0) as sock:
        if probe["protocol"] == "tcp":
            # Without a wire's delay the ICMP error to a SYN arrives within connect(), where the kernel only takes a note
            # of it, and would go on trying. RECVERR makes it wake us.
            sock.setsockopt(*RECVERR[sock.family], 1)
        try:
            await asyncio.wait_for(attempt(sock, probe), timeout)
            return "open"
        except asyncio.TimeoutError:
            return "shut"
        except OSError:  # A reset or one of ICMP's unreachables, whatever errno the kernel makes of it.
            return "refused"


async def probe_all(probes, timeout):
    print(json.dumps(await asyncio.gather(*(verdict(probe, timeout) for probe in probes))))


# --- ping: {source, target} on stdin; prints true or false


def checksum(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


async def echo_reply(sock, target):
    loop = asyncio.get_running_loop()
    v6 = sock.family == socket.AF_INET6
    request, reply = (128, 129) if v6 else (8, 0)
    identity = struct.pack("!HH", os.getpid() & 0xFFFF, 1)
    total = 0 if v6 else checksum(struct.pack("!BBH", request, 0, 0) + identity)  # the kernel does it for ICMPv6
    sock.connect((target, 0))
    await loop.sock_sendall(sock, struct.pack("!BBH", request, 0, total) + identity)
    while True:
        packet = await loop.sock_recv(sock, 2048)
        message = packet if v6 else packet[(packet[0] & 15) * 4 :]  # only raw IPv4 sockets see the IP header
        if message[0] == reply and message[4:8] == identity:
            return


async def ping(request, timeout):
    protocol = socket.IPPROTO_ICMPV6 if ":" in request["source"] else socket.IPPROTO_ICMP
    with make_socket(socket.SOCK_RAW, request["source"], 0, protocol) as sock:
        try:
            await asyncio.wait_for(echo_reply(sock, request["target"]), timeout)
            print("true")
        except (asyncio.TimeoutError, OSError):
            print("false")


# --- forge: {source, target, sourcePort, port, count} on stdin; prints how many UDP packets left


IPV6_HDRINCL = 36  # not in socket yet


async def forge(order, _timeout):
    """Sends from an address that this machine need not have: it writes the IP header itself."""
    source, target = (ipaddress.ip_address(order[end]).packed for end in ("source", "target"))
    ports = struct.pack("!HHH", order["sourcePort"], order["port"], 8)
    sum_of_it = checksum(source + target + struct.pack("!HH", socket.IPPROTO_UDP, 8) + ports) or 0xFFFF
    datagram = ports + struct.pack("!H", sum_of_it)
    if len(source) == 16:
        header = struct.pack("!IHBB", 6 << 28, len(datagram), socket.IPPROTO_UDP, 64)
        family, level, option = socket.AF_INET6, socket.IPPROTO_IPV6, IPV6_HDRINCL
    else:  # the kernel fills in the length, the id and the checksum
        header = struct.pack("!BBHHHBBH", 0x45, 0, 0, 0, 0, 64, socket.IPPROTO_UDP, 0)
        family, level, option = socket.AF_INET, socket.IPPROTO_IP, socket.IP_HDRINCL
    with socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW) as sock:
        sock.setsockopt(level, option, 1)
        for _ in range(order["count"]):
            sock.sendto(header + source + target + datagram, (order["target"], 0))
    print(order["count"])


# --- watch: [{source, target, port, everyMs}…] as argument; knocks at each port until stdin ends, and prints for each
# {sent, pauseMs: the longest between two knocks, open: [ms since 1970…], refused: [ms since 1970…]}: when the target answered


def answer_in(packet):
    """(source, port, "open" or "refused") if the IP packet answers a SYN to a port of whoever sent it."""
    if packet[0] >> 4 == 4:
        protocol, source, payload = packet[9], packet[12:16], packet[(packet[0] & 15) * 4 :]
    else:
        protocol, source, payload = packet[6], packet[8:24], packet[40:]
    if protocol == socket.IPPROTO_TCP and len(payload) >= 20:
        kind = "refused" if payload[13] & 4 else "open" if payload[13] & 18 == 18 else None
        return kind and (source, int.from_bytes(payload[:2], "big"), kind)
    if (protocol, payload[0]) in ((socket.IPPROTO_ICMP, 3), (socket.IPPROTO_ICMPV6, 1)):
        inner = payload[8:]
        segment = inner[40 if inner[0] >> 4 == 6 else (inner[0] & 15) * 4 :]
        return source, int.from_bytes(segment[2:4], "big"), "refused"
    return None


async def knock(order, watched, ends):
    """Connects, again and again, and never waits for what becomes of it: the packets tell."""
    sockets = collections.deque()
    last = time.monotonic()
    while not ends.done():
        sock = make_socket(socket.SOCK_STREAM, order["source"], 0)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close() forgets at once
        sock.connect_ex((order["target"], order["port"]))
        sockets.append(sock)
        if len(sockets) > 40:
            sockets.popleft().close()
        now = time.monotonic()
        watched["sent"] += 1
        watched["pauseMs"] = max(watched["pauseMs"], round((now - last) * 1000))
        last = now
        await asyncio.sleep(order["everyMs"] / 1000)
    for sock in sockets:
        sock.close()


async def watch(orders):
    loop = asyncio.get_running_loop()
    ends = loop.run_in_executor(None, sys.stdin.read)
    watched = [{"sent": 0, "pauseMs": 0, "open": [], "refused": []} for _ in orders]
    places = {(ipaddress.ip_address(order["target"]).packed, order["port"]): i for i, order in enumerate(orders)}
    with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3)) as sniffer:  # ETH_P_ALL
        sniffer.setblocking(False)
        sniffer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)

        def look():
            packet, (_, protocol, kind, *_) = sniffer.recvfrom(2048)
            found = kind != 4 and protocol in (0x0800, 0x86DD) and answer_in(packet)  # not PACKET_OUTGOING
            if found and found[:2] in places:
                watched[places[found[:2]]][found[2]].append(round(time.time() * 1000))

        loop.add_reader(sniffer, look)
        print("watching", flush=True)
        await asyncio.gather(*(knock(order, of, ends) for order, of in zip(orders, watched)))
        await asyncio.sleep(0.3)  # the last answers
        loop.remove_reader(sniffer)
    print(json.dumps(watched))


# --- deliver: {target, recipient, message} on stdin, over SMTP on port 25; prints null


async def deliver(request, timeout):
    import smtplib  # most runs do without, and it takes as long to load as all the rest

    try:
        with smtplib.SMTP(request["target"], 25, "client.example.net", timeout) as smtp:
            smtp.sendmail("sender@example.net", [request["recipient"]], request["message"])
    except OSError as error:  # an SMTPException is one
        raise SystemExit(f"{type(error).__name__}: {error}")
    print("null")


# --- read: {target, user, password} on stdin, over IMAP with TLS on port 993; prints [message…], the oldest first


async def read(request, timeout):
    import imaplib
    import ssl

    try:
        context = ssl._create_unverified_context()  # the certificate is its own authority
        with imaplib.IMAP4_SSL(request["target"], 993, ssl_context=context, timeout=timeout) as imap:
            imap.login(request["user"], request["password"])
            imap.select("INBOX", readonly=True)
            numbers = imap.search(None, "ALL")[1][0].split()
            print(json.dumps([imap.fetch(number, "(RFC822)")[1][0][1].decode() for number in numbers]))
    except (OSError, imaplib.IMAP4.error) as error:
        raise SystemExit(f"{type(error).__name__}: {error}")


def main(verb, argument=""):
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # a socket for each probe
    if verb in ("listen", "count", "watch"):
        return {"listen": listen, "count": count, "watch": watch}[verb](json.loads(argument))
    if verb == "flow":
        return flow()
    verbs = {"probe": probe_all, "ping": ping, "forge": forge, "deliver": deliver, "read": read}
    return verbs[verb](json.load(sys.stdin), float(argument) / 1000)


asyncio.run(main(*sys.argv[1:]))
