"""Driver of scripts/object-probe: an object store of four nodes with two XFS devices each, every node in a network
namespace of its own, while clients write, read and delete and a saboteur kills, cuts off, slows, fills and wipes
nodes. Nodes run this project's servers or another Swift's, as told. Afterwards: every acknowledged object is
there with its bytes and headers on three devices, nothing deleted has come back, listings and databases agree.
Needs root; standard library only."""

import argparse
import http.client
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import zlib

from object_model import ACCOUNT, HASH, NET, PORT, PROXY, ROLES, TAG, Client, Direct, Gate, Model, Ring, Verifier, digest, each, worker

DAEMONS = ["account-replicator", "container-replicator", "object-replicator", "object-updater", "container-updater"]
CONVERGED = 60  # seconds within which all must agree again
KINDS = ["kill", "freeze", "cut", "slow", "fill", "wipe"]
MIX = {"usual": [40, 35, 10, 8, 7], "write": [90, 4, 1, 2, 3]}  # put, get, delete, overwrite, post


def sh(*args, check=True, **kw):
    return subprocess.run(args, check=check, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **kw).stdout


def wait_free(ip, port):
    """Until nothing listens there: workers of a killed program die on their own time, and hold the port until then."""
    for _ in range(100):
        try:
            socket.create_connection((ip, port), timeout=1).close()
        except OSError:
            return
        time.sleep(0.05)


def wait_answer(ip, port, who):
    """Until /healthcheck answers 200 there; ends the run after 30 seconds."""
    deadline = time.time() + 30
    while True:
        try:
            c = http.client.HTTPConnection(ip, port, timeout=2)
            c.request("GET", "/healthcheck")
            if c.getresponse().status == 200:
                return
        except OSError:
            pass
        if time.time() > deadline:
            raise SystemExit(f"{who} does not answer on port {port}")
        time.sleep(0.1)


def proxy_conf(swift_dir, ip, memcached, pipeline, users="user_test_tester = testing .admin\n", more=""):
    """A proxy's configuration with these filters."""
    filters = "".join(f"[filter:{f}]\nuse = egg:swift#{f.replace('-', '_')}\n" for f in pipeline.split() if f not in ("tempauth", "cache"))
    filters += f"[filter:cache]\nuse = egg:swift#memcache\nmemcache_servers = {memcached}:11211\n"
    return (
        f"[DEFAULT]\nbind_ip = {ip}\nbind_port = {PORT}\nworkers = 2\nuser = root\nswift_dir = {swift_dir}\nlog_level = WARNING\n"
        f"[pipeline:main]\npipeline = {pipeline} proxy-server\n[app:proxy-server]\nuse = egg:swift#proxy\naccount_autocreate = true\nnode_timeout = 3\n"
        f"conn_timeout = 0.5\nerror_suppression_interval = 5\n{more}{filters}[filter:tempauth]\nuse = egg:swift#tempauth\n{users}"
    )


class Node:
    def __init__(self, cluster, n):
        self.cluster, self.n, self.ip = cluster, n, f"{NET}{n}"
        self.ns, self.dir = f"{TAG}{n}", os.path.join(cluster.dir, f"n{n}")
        self.kind = cluster.kinds[(n - 1) % len(cluster.kinds)]
        self.procs = {}

    def setup(self):
        sh("ip", "netns", "add", self.ns)
        sh("ip", "link", "add", f"{TAG}v{self.n}", "type", "veth", "peer", "name", "eth0", "netns", self.ns)
        sh("ip", "link", "set", f"{TAG}v{self.n}", "master", f"{TAG}br", "up")
        for args in (["addr", "add", f"{self.ip}/24", "dev", "eth0"], ["link", "set", "eth0", "up"], ["link", "set", "lo", "up"]):
            sh("ip", "-n", self.ns, *args)
        for d in (1, 2):
            self.make_device(d)
        self.configure()

    def device(self, d):
        return os.path.join(self.dir, "devices", f"d{d}")

    def make_device(self, d):
        image, mount = os.path.join(self.dir, f"d{d}.img"), self.device(d)
        os.makedirs(mount, exist_ok=True)
        if os.path.exists(image):
            os.unlink(image)
        with open(image, "wb") as f:
            f.truncate(self.cluster.device_mib << 20)
        sh("mkfs.xfs", "-q", "-i", "size=512", image)
        sh("mount", "-o", "loop,noatime", image, mount)

    def wipe(self, d):
        sh("umount", "-l", self.device(d))
        self.make_device(d)

    def configure(self):
        etc = os.path.join(self.dir, "etc")
        os.makedirs(etc, exist_ok=True)
        common = (
            f"bind_ip = {self.ip}\nworkers = 1\nuser = root\nswift_dir = {self.cluster.swift_dir}\ndevices = {self.dir}/devices\n"
            "mount_check = true\nlog_level = WARNING\nfallocate_reserve = 1%\n"
        )
        # The other Swift's daemons start a process per device and pass: a small machine would do nothing else.
        pause = 15 if self.cluster.mixed else 3
        for role, port in ROLES.items():
            replicator = f"concurrency = 2\ninterval = {pause}\nrun_pause = {pause}\n"
            if role == "object":
                replicator += "rsync_timeout = 20\nrsync_io_timeout = 10\nhandoffs_first = false\nsync_method = %s\n" % self.cluster.sync
            else:
                replicator += "per_diff = 1000\n"
            with open(f"{etc}/{role}-server.conf", "w") as f:
                f.write(f"[DEFAULT]\nbind_port = {port}\n{common}\n[pipeline:main]\npipeline = healthcheck recon {role}-server\n")
                f.write(f"[app:{role}-server]\nuse = egg:swift#{role}\n[filter:healthcheck]\nuse = egg:swift#healthcheck\n")
                f.write(f"[filter:recon]\nuse = egg:swift#recon\nrecon_cache_path = {self.dir}/recon\n")
                f.write(f"[{role}-replicator]\n{replicator}recon_cache_path = {self.dir}/recon\n")
                f.write(f"[{role}-updater]\ninterval = {pause}\nslowdown = 0\nrecon_cache_path = {self.dir}/recon\n")
                f.write(f"[{role}-auditor]\ninterval = 30\nfiles_per_second = 1000\nrecon_cache_path = {self.dir}/recon\n[account-reaper]\n[container-sync]\n[object-expirer]\ninterval = 10\n")
        self.configure_rsync()

    def configure_rsync(self, devices=None):
        etc, devices = os.path.join(self.dir, "etc"), devices or f"{self.dir}/devices"
        os.makedirs(f"{self.dir}/recon", exist_ok=True)
        modules = "".join(
            f"[{m}]\npath = {devices}\nread only = false\nlock file = {self.dir}/{m}.lock\nmax connections = 16\n" for m in ROLES
        )
        with open(f"{etc}/rsyncd.conf", "w") as f:
            f.write(f"uid = 0\ngid = 0\nuse chroot = no\nlog file = {self.dir}/rsyncd.log\npid file = {self.dir}/rsyncd.pid\naddress = {self.ip}\n{modules}")

    def inside(self):
        return ["ip", "netns", "exec", self.ns]

    def spawn(self, name, command):
        log = open(os.path.join(self.dir, f"{name}.log"), "ab")
        self.procs[name] = subprocess.Popen(
            [*self.inside(), *command], stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
        )

    def command(self, what):
        conf = f"{self.dir}/etc/{what.split('-')[0]}-server.conf"
        return self.cluster.command(self.kind, what, conf)

    def start(self, daemons=DAEMONS):
        for role in ROLES:
            self.spawn(f"{role}-server", self.command(f"{role}-server"))
        for daemon in daemons:
            self.spawn(daemon, self.command(daemon))
        if os.path.exists(f"{self.dir}/rsyncd.pid"):
            os.unlink(f"{self.dir}/rsyncd.pid")
        self.spawn("rsync", ["rsync", "--daemon", "--no-detach", f"--config={self.dir}/etc/rsyncd.conf"])

    def signal(self, sig):
        for p in self.procs.values():
            try:
                os.killpg(p.pid, sig)
            except ProcessLookupError:
                pass

    def stop(self):
        self.signal(signal.SIGKILL)
        for p in self.procs.values():
            p.wait()
        if self.procs:
            for port in ROLES.values():
                wait_free(self.ip, port)
        self.procs = {}

    def wait(self):
        for port in ROLES.values():
            wait_answer(self.ip, port, f"node {self.n} ({self.kind}), logs in {self.dir},")

    def teardown(self):
        self.stop()
        for d in (1, 2):
            sh("umount", "-l", self.device(d), check=False)
        sh("ip", "netns", "del", self.ns, check=False)


class Cluster:
    def __init__(self, args):
        self.dir, self.caelum, self.swift = args.dir, args.caelum, args.swift_bin
        self.kinds, self.proxy_kind = args.nodes.split(","), args.proxy
        self.mixed = bool(args.swift_bin)
        self.device_mib, self.sync = args.device_mib, args.sync
        self.swift_dir = os.path.join(self.dir, "swift")
        self.nodes = [Node(self, n) for n in range(1, 5)]
        self.proxy = self.memcached = None

    def command(self, kind, what, conf):
        if kind == "caelum":
            role = "proxy" if what == "proxy-server" else what
            return [self.caelum, "object", "--swift-dir", self.swift_dir, "--config", conf, role]
        # Its daemons look for swift.conf in /etc/swift alone.
        inside = 'mount --bind "$0" /etc/swift && exec "$@"'
        return ["unshare", "-m", "sh", "-c", inside, self.swift_dir, os.path.join(self.swift, f"swift-{what}"), conf]

    def setup(self):
        os.makedirs(self.swift_dir, exist_ok=True)
        os.makedirs("/etc/swift", exist_ok=True)
        with open(f"{self.swift_dir}/swift.conf", "w") as f:
            f.write(f"[swift-hash]\nswift_hash_path_prefix = {HASH.decode()}\nswift_hash_path_suffix = {HASH.decode()}\n[storage-policy:0]\nname = gold\ndefault = yes\n")
        for role, port in ROLES.items():
            file = f"{self.swift_dir}/{role}.builder"
            self.ring(file, "create", "8", "3", "1")
            for n in range(1, 5):
                for d in (1, 2):
                    self.ring(file, "add", f"r1z{n}-{NET}{n}:{port}/d{d}", "100")
            self.ring(file, "rebalance", "1")
        sh("ip", "link", "add", f"{TAG}br", "type", "bridge")
        sh("ip", "addr", "add", f"{PROXY}/24", "dev", f"{TAG}br")
        sh("ip", "link", "set", f"{TAG}br", "up")
        for node in self.nodes:
            node.setup()

    def ring(self, file, *args):
        done = subprocess.run([self.caelum, "ring", file, *args], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode > 1:
            raise SystemExit(f"ring {args}: {done.stdout}")

    def start(self):
        for node in self.nodes:
            node.start()
        for node in self.nodes:
            node.wait()
        self.start_proxy()

    def start_proxy(self):
        conf = f"{self.swift_dir}/proxy-server.conf"
        pipeline = "catch_errors gatekeeper healthcheck cache listing_formats bulk tempurl tempauth copy container-quotas account-quotas slo dlo versioned_writes symlink"
        if not self.memcached:
            self.memcached = subprocess.Popen(["memcached", "-l", PROXY, "-p", "11211", "-u", "nobody"], start_new_session=True)
        with open(conf, "w") as f:
            f.write(proxy_conf(self.swift_dir, PROXY, PROXY, pipeline))
        log = open(f"{self.dir}/proxy.log", "ab")
        self.proxy = subprocess.Popen(self.command(self.proxy_kind, "proxy-server", conf), stdout=log, stderr=log, start_new_session=True)
        wait_answer(PROXY, PORT, f"the proxy, log in {self.dir}/proxy.log,")

    def relink(self, action):
        for node in self.nodes:
            conf = f"{node.dir}/etc/object-server.conf"
            if node.kind == "swift":
                command = self.command("swift", "object-relinker", conf)
                command = [*command[:-1], action, conf]
            else:
                command = self.command("caelum", {"relink": "object-relink", "cleanup": "object-relink-cleanup"}[action], conf)
            done = subprocess.run([*node.inside(), *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            if done.returncode != 0:
                raise SystemExit(f"relinker {action} on node {node.n}: {done.stdout}")

    def stop_proxy(self):
        if self.proxy:
            try:
                os.killpg(self.proxy.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            self.proxy.wait()
            wait_free(PROXY, PORT)

    def teardown(self):
        self.stop_proxy()
        if self.memcached:
            self.memcached.kill()
            self.memcached.wait()
        for node in self.nodes:
            node.teardown()
        sh("ip", "link", "del", f"{TAG}br", check=False)


def saboteur(cluster, stop, rng, rounds, gate, log):
    """Every fault `rounds` times, in any order, on nodes by chance."""
    faults = [k for k in KINDS for _ in range(rounds)]
    rng.shuffle(faults)
    for fault in faults:
        node = rng.choice(cluster.nodes)
        log.append(f"{fault} {node.n}")
        gate.open(0.6)
        stop.wait(rng.uniform(0.2, 0.6))
        FAULTS[fault](cluster, node, rng, stop, gate)
        node.wait()
        gate.open(0.3)
        gate.wait_used(stop)


def killed(cluster, node, rng, stop, gate):
    node.stop()
    stop.wait(rng.uniform(1, 4))
    node.start()


def frozen(cluster, node, rng, stop, gate):
    node.signal(signal.SIGSTOP)
    stop.wait(rng.uniform(1, 4))
    node.signal(signal.SIGCONT)


def cut(cluster, node, rng, stop, gate):
    sh("ip", "link", "set", f"{TAG}v{node.n}", "down")
    stop.wait(rng.uniform(1, 4))
    sh("ip", "link", "set", f"{TAG}v{node.n}", "up")


def slowed(cluster, node, rng, stop, gate):
    limit = ["tbf", "rate", "2mbit", "burst", "16kb", "latency", "400ms"]
    sh("ip", "netns", "exec", node.ns, "tc", "qdisc", "replace", "dev", "eth0", "root", *limit)
    stop.wait(rng.uniform(2, 5))
    sh("ip", "netns", "exec", node.ns, "tc", "qdisc", "del", "dev", "eth0", "root", check=False)


def filled(cluster, node, rng, stop, gate):
    path = os.path.join(node.device(rng.choice([1, 2])), "ballast")
    # Preallocation fills it at once, writing what is left over.
    free = shutil.disk_usage(os.path.dirname(path)).free
    subprocess.run(["fallocate", "-l", str(free * 99 // 100), path], stderr=subprocess.DEVNULL)
    subprocess.run(["dd", "if=/dev/zero", f"of={path}", "bs=1M", "oflag=append", "conv=notrunc"], stderr=subprocess.DEVNULL)
    stop.wait(rng.uniform(1, 4))
    if os.path.exists(path):
        os.unlink(path)


def wiped(cluster, node, rng, stop, gate):
    node.stop()
    node.wipe(rng.choice([1, 2]))
    node.start()
    gate.open(0.1)
    # The next disk fails once this one's copies are back: three copies bear two losses, not more.
    stop.wait(cluster.recovery)


FAULTS = {"kill": killed, "freeze": frozen, "cut": cut, "slow": slowed, "fill": filled, "wipe": wiped}


def replacer(cluster, stop, seconds, gate, log):
    """Gives each node, one after the other, to the other program, then back; the proxy in between."""
    other = {"caelum": "swift", "swift": "caelum"}
    for _ in range(2):
        for node in [*cluster.nodes, None]:
            gate.open(1)
            if stop.wait(seconds):
                return
            gate.wait_used(stop)
            if node:
                log.append(f"{node.n}:{node.kind}>{other[node.kind]}")
                node.stop()
                node.kind = other[node.kind]
                node.start()
                node.wait()
            else:
                log.append(f"proxy:{cluster.proxy_kind}>{other[cluster.proxy_kind]}")
                cluster.stop_proxy()
                cluster.proxy_kind = other[cluster.proxy_kind]
                cluster.start_proxy()


def grower(cluster, stop, gate, log):
    """Moves a device's partitions away and back by weight, then doubles the partitions of the object ring."""

    def ring(*args):
        log.append(args[0])
        cluster.ring(f"{cluster.swift_dir}/object.builder", *args)

    def seen():
        # Servers look at the ring every 15 s; each step waits until all have seen the one before.
        gate.open(1)
        stop.wait(20)
        gate.wait_used(stop)

    for weight in ("0", "100"):
        ring("set_weight", f"{NET}2/d1", weight, "--yes")
        ring("pretend_min_part_hours_passed")
        ring("rebalance")
        seen()
    # As upstream asks: no partition is on its way to another device while the power grows.
    stop.wait(40)
    ring("prepare_increase_partition_power")
    ring("write_ring")
    seen()
    cluster.relink("relink")
    log.append("relinked")
    gate.open(1)
    ring("increase_partition_power")
    ring("write_ring")
    seen()
    cluster.relink("cleanup")
    log.append("cleaned")
    gate.open(1)
    ring("finish_increase_partition_power")
    ring("write_ring")
    seen()
    log.append("finished")


def flip(node):
    """Flips one byte in the middle of every data file of a node; returns how many were hurt."""
    hurt = 0
    for d in (1, 2):
        for top, _, files in os.walk(os.path.join(node.device(d), "objects")):
            for name in files:
                path = os.path.join(top, name)
                size = os.path.getsize(path)
                if not name.endswith(".data") or not size:
                    continue
                was = os.stat(path)
                with open(path, "r+b") as f:
                    f.seek(size // 2)
                    byte = f.read(1)
                    f.seek(size // 2)
                    f.write(bytes([byte[0] ^ 1]))
                # Rot leaves no trace in the inode.
                os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))
                hurt += 1
    return hurt


def bit_rot(cluster, model, verifier):
    """One node's data all wrong: nobody may be served it, half of it found by reading, the rest by the auditor."""
    node = cluster.nodes[0]
    node.signal(signal.SIGSTOP)
    hurt = flip(node)
    sh("sync")
    with open("/proc/sys/vm/drop_caches", "w") as f:
        f.write("3\n")
    node.signal(signal.SIGCONT)
    direct, ring = Direct(), Ring(f"{cluster.swift_dir}/object.ring.gz")
    tally, lock = {}, threading.Lock()

    def judge(who, name, status, body):
        right = status == 200 and any(v and v[0] == digest(body) for v in model.state[name])
        absent = status == 404 and None in model.state[name]
        what = "right" if right or absent else "wrong" if status == 200 else "missing" if status == 404 else "broken off" if not status else str(status)
        with lock:
            tally[f"{who} {what}"] = tally.get(f"{who} {what}", 0) + 1
        return what

    def read(name):
        if zlib.crc32(name.encode()) % 2:
            return []
        container, key = name[1:].split("/", 1)
        part, primaries = ring.primaries(ACCOUNT, container, key)
        # The damaged node itself, then the proxy.
        for dev in primaries:
            if dev["ip"] == node.ip and zlib.crc32(key.encode()) % 4 < 2:
                status, _, body = direct.get(dev, part, ACCOUNT, container, key)
                judge("node", name, status, body)
        client = verifier.client()
        for attempt in range(4):
            status, _, body = client.call("GET", name)
            if judge("proxy", name, status, body) != "broken off":
                break
        return []

    each(sorted(model.state), read)
    started = time.time()
    node.spawn("object-auditor", node.command("object-auditor"))
    problems = ["not looked yet"]
    verifier.again()
    while problems and time.time() - started < 180:
        time.sleep(2)
        if quarantined(node) >= hurt:
            problems = unequal(cluster) or verifier.run() or verifier.copies()
    found = quarantined(node)
    print(f"bit rot           {hurt} files hurt, {found} quarantined, {replicas(cluster)} data files after {time.time() - started:.0f} s of auditing")
    print("read meanwhile    " + ", ".join(f"{k}: {v}" for k, v in sorted(tally.items())))
    wrong = sum(v for k, v in tally.items() if k.endswith((" wrong", " missing")) and k != "node missing")
    if wrong:
        problems.append(f"{wrong} wrong answers")
    if found < hurt:
        problems.append(f"{hurt - found} damaged files not found")
    return problems


def quarantined(node):
    n = 0
    for d in (1, 2):
        top = os.path.join(node.device(d), "quarantined", "objects")
        n += len(os.listdir(top)) if os.path.isdir(top) else 0
    return n


def replicas(cluster):
    """Data files of objects per node, tombstones apart."""
    out = {}
    for node in cluster.nodes:
        n = 0
        for d in (1, 2):
            for _, _, files in os.walk(os.path.join(node.device(d), "objects")):
                n += sum(f.endswith(".data") for f in files)
        out[node.n] = n
    return out


def same_state(files):
    """An object's files with the `.meta` among them as what they say: the time of its metadata and that of its content type, which may
    stand in one file's name or in two files', as Swift lets them. Nodes compare those times."""
    rest, times, types = set(), [], []
    for f in files:
        parts = re.fullmatch(r"(\d+)\.(\d{5})([-+][0-9a-f]+)?\.meta", f)
        if not parts:
            rest.add(f)
            continue
        times.append(int(parts[1] + parts[2]))
        types += [times[-1] + int(parts[3], 16)] if parts[3] else []
    return frozenset(rest | {f"metadata of {t}" for t in sorted(times)[-1:]} | {f"content type of {t}" for t in sorted(types)[-1:]})


def unequal(cluster):
    """What the devices do not hold alike: every object's files have to be the same on three devices, none elsewhere,
    and no update may wait."""
    where, waiting = {}, 0
    for node in cluster.nodes:
        for d in (1, 2):
            for top, _, files in os.walk(os.path.join(node.device(d), "objects")):
                kept = frozenset(f for f in files if f.endswith((".data", ".ts", ".meta")))
                # A POST that reached only a node that had slept through the deletion: newer than the tombstone, so every
                # Swift keeps it until the reclaim age, in case data from between turns up. Nodes do not compare it.
                if any(f.endswith(".ts") for f in kept) and not any(f.endswith(".data") for f in kept):
                    kept = frozenset(f for f in kept if f.endswith(".ts"))
                if kept:
                    where.setdefault(os.path.basename(top), []).append(same_state(kept))
            for _, _, files in os.walk(os.path.join(node.device(d), "async_pending")):
                waiting += len(files)
    out = [f"object {h}: {len(sets)} copies {sorted(map(sorted, set(sets)))}" for h, sets in where.items() if len(sets) != 3 or len(set(sets)) != 1]
    return out + ([f"{waiting} updates wait"] if waiting else [])


def dispersion(cluster):
    """The other Swift's own figures of where things are; its programs also need its client library."""
    conf = f"{cluster.swift_dir}/dispersion.conf"
    with open(conf, "w") as f:
        f.write(f"[dispersion]\nauth_url = http://{PROXY}:{PORT}/auth/v1.0\nauth_user = test:tester\nauth_key = testing\n")
        f.write(f"swift_dir = {cluster.swift_dir}\ndispersion_coverage = 100\nconcurrency = 8\n")

    def tool(name):
        done = subprocess.run(cluster.command("swift", f"dispersion-{name}", conf), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        lines = [line for text in done.stdout.splitlines() for line in text.split("\r") if line.strip()]
        return done.returncode, [line.removeprefix("\x1b[K") for line in lines if "Querying" not in line and "Creating" not in line]

    code, lines = tool("populate")
    if code:
        return [f"swift-dispersion-populate: {code}: {lines[-3:]}"]
    # Containers are in the account's listing once their servers have reported them; the third copy of what was
    # acknowledged with two comes by replication.
    started, code, full = time.time(), 1, False
    while time.time() < started + 180 and not full:
        time.sleep(5)
        code, lines = tool("report")
        found = [line for line in lines if "copies found" in line]
        full = not code and len(found) == 2 and all(line.startswith("100.00%") for line in found)
        if not full:
            print("  " + " / ".join(found or lines[-3:]))
    print(f"dispersion        {' / '.join(lines)}, after {time.time() - started:.0f} s")
    return [] if full else ["dispersion below 100 %"]


def arguments():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("caelum")
    p.add_argument("--operations", type=int, default=20_000)
    p.add_argument("--clients", type=int, default=8)
    p.add_argument("--mix", default="usual", choices=sorted(MIX), help="write: nine tenths new objects")
    p.add_argument("--sizes", default="0,1,900,4096,70000,300000", help="bytes of objects, by chance; one in twenty has seven times the last")
    p.add_argument("--nodes", default="caelum", help="kinds of the four nodes, in turn: caelum, swift")
    p.add_argument("--proxy", default="caelum")
    p.add_argument("--swift-bin", default="", help="directory with the programs of the other Swift")
    p.add_argument("--sync", default="rsync", choices=["rsync", "ssync"])
    p.add_argument("--no-faults", action="store_true")
    p.add_argument("--rounds", type=int, default=4, help="so often each fault")
    p.add_argument("--replace", type=float, default=0, help="seconds at least between replacements of nodes by the other program, instead of faults")
    p.add_argument("--grow", action="store_true", help="change the ring and double its partitions under load, instead of faults")
    p.add_argument("--bit-rot", action="store_true", help="afterwards, hurt every data file of one node")
    p.add_argument("--dispersion", action="store_true", help="afterwards, the other Swift's dispersion report")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--recovery", type=float, default=15)
    p.add_argument("--patience", type=float, default=CONVERGED + 60, help="seconds until agreement is given up")
    p.add_argument("--device-mib", type=int, default=2048)
    p.add_argument("--dir", default="/tmp/object-probe")
    p.add_argument("--keep", action="store_true", help="leave logs and configuration")
    return p.parse_args()


def exercise(cluster, model, containers, args, events):
    """Clients and whatever disturbs them, until both are done."""
    stop = threading.Event()
    steps = 10 if args.replace else 7 if args.grow else len(KINDS) * args.rounds
    gate = Gate(args.operations, steps)
    sizes = [int(n) for n in args.sizes.split(",")]
    each_one = args.operations // args.clients
    threads = [
        threading.Thread(daemon=True, target=worker, args=(model, containers, args.seed * 1000 + i, each_one, gate, MIX[args.mix], sizes))
        for i in range(args.clients)
    ]

    def disturb():
        try:
            if args.grow:
                grower(cluster, stop, gate, events)
            elif args.replace:
                replacer(cluster, stop, args.replace, gate, events)
            elif not args.no_faults:
                saboteur(cluster, stop, random.Random(args.seed), args.rounds, gate, events)
        except BaseException as e:  # noqa: BLE001, its end must not leave the clients waiting
            model.bad(f"disturbing ended early: {type(e).__name__} {e}")
        finally:
            gate.open()

    bad = threading.Thread(daemon=True, target=disturb)
    for t in [*threads, bad]:
        t.start()
    for t in [*threads, bad]:
        t.join()


def agree(cluster, model, verifier, patience):
    """Waits for agreement; the seconds that took, and what is still wrong."""
    healed, last, problems, rounds, converged = time.time(), "", ["not looked yet"], 0, 0
    while problems and (time.time() - healed < patience or rounds < 3):
        rounds += 1
        time.sleep(1)
        problems = unequal(cluster) or verifier.databases()
        converged = time.time() - healed
        if not problems:
            # The devices agree; whether with what was written is a question of reading everything.
            problems = verifier.run() or verifier.copies()
        if problems and problems[0] != last:
            last = problems[0]
            print(f"  {time.time() - healed:4.0f} s: {len(problems)} to go: {last[:160]}", flush=True)
    return converged, problems


def run(cluster, model, args):
    containers = [f"c{i}" for i in range(8)]
    cluster.setup()
    cluster.start()
    client = Client()
    for c in containers:
        deadline = time.time() + 60
        while (answer := client.call("PUT", f"/{c}", None, {"X-Container-Meta-Made": c}))[0] not in (201, 202):
            if time.time() > deadline:
                raise SystemExit(f"containers cannot be made: {answer[0]} {answer[2][:200]!r}")
    started, events = time.time(), []
    exercise(cluster, model, containers, args, events)
    took = time.time() - started
    print(f"operations        {sum(model.counts.values())} in {took:.0f} s: " + ", ".join(f"{k}: {v}" for k, v in sorted(model.counts.items())))
    print(f"events            {len(events)}: " + " ".join(events), flush=True)
    verifier = Verifier(model, containers, cluster.swift_dir)
    converged, problems = agree(cluster, model, verifier, args.patience)
    deleted = sum(s == {None} for s in model.state.values())
    put = sum(v for k, v in model.counts.items() if k in ("put 201", "over 201"))
    print(f"names             {len(model.state)}, {put} writes acknowledged, {deleted} deleted for certain, {sum(len(s) > 1 for s in model.state.values())} unsure")
    print(f"converged after   {converged:.0f} s" if not problems else f"not converged after {converged:.0f} s")
    certain = sum(None not in s for s in model.state.values())
    print(f"copies            {certain} objects certain, {certain - len(verifier.uncopied)} with right bytes and headers on three devices")
    print(f"data files        {replicas(cluster)}", flush=True)
    if converged > CONVERGED and not args.replace:
        problems.append(f"converged after more than {CONVERGED} s")
    if args.bit_rot and not problems:
        problems = bit_rot(cluster, model, verifier)
    if args.dispersion and not problems:
        problems = dispersion(cluster)
    return model.wrong + problems


def main():
    args = arguments()
    shutil.rmtree(args.dir, ignore_errors=True)
    os.makedirs(args.dir)
    cluster, model, problems = Cluster(args), Model(), ["ended early"]
    cluster.recovery = args.recovery
    try:
        problems = run(cluster, model, args)
        for line in problems[:20]:
            print("  " + line[:300])
        print(f"problems          {len(problems)}", flush=True)
    finally:
        cluster.teardown()
        if not args.keep and not problems:
            shutil.rmtree(args.dir, ignore_errors=True)
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
