"""Driver of scripts/object-probe: an object store of four nodes with two XFS devices each, every node in a network
namespace of its own, while clients write, read and delete and a saboteur kills, cuts off, slows, fills and wipes
nodes. Nodes run this project's servers or another Swift's, as told. Afterwards: every acknowledged object is
there with its bytes, nothing deleted has come back, listings agree. Needs root; standard library only."""

import argparse
import hashlib
import http.client
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.parse

NET = "10.77.0."
PROXY = NET + "254"
PORT = 8080
ROLES = {"account": 6202, "container": 6201, "object": 6200}
DAEMONS = ["account-replicator", "container-replicator", "object-replicator", "object-updater", "container-updater"]
CONVERGED = 60  # seconds within which all must agree again


def sh(*args, check=True, **kw):
    return subprocess.run(args, check=check, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **kw).stdout


class Node:
    def __init__(self, cluster, n):
        self.cluster, self.n, self.ip = cluster, n, f"{NET}{n}"
        self.ns, self.dir = f"probe{n}", os.path.join(cluster.dir, f"n{n}")
        self.kind = cluster.kinds[(n - 1) % len(cluster.kinds)]
        self.procs = {}

    def setup(self):
        sh("ip", "netns", "add", self.ns)
        sh("ip", "link", "add", f"pr{self.n}", "type", "veth", "peer", "name", "eth0", "netns", self.ns)
        sh("ip", "link", "set", f"pr{self.n}", "master", "probebr", "up")
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
        for role, port in ROLES.items():
            replicator = "concurrency = 2\ninterval = 3\nrun_pause = 3\n"
            if role == "object":
                replicator += "rsync_timeout = 20\nrsync_io_timeout = 10\nhandoffs_first = false\nsync_method = %s\n" % self.cluster.sync
            else:
                replicator += "per_diff = 1000\n"
            with open(f"{etc}/{role}-server.conf", "w") as f:
                f.write(f"[DEFAULT]\nbind_port = {port}\n{common}\n[pipeline:main]\npipeline = healthcheck recon {role}-server\n")
                f.write(f"[app:{role}-server]\nuse = egg:swift#{role}\n[filter:healthcheck]\nuse = egg:swift#healthcheck\n")
                f.write(f"[filter:recon]\nuse = egg:swift#recon\nrecon_cache_path = {self.dir}/recon\n")
                f.write(f"[{role}-replicator]\n{replicator}recon_cache_path = {self.dir}/recon\n")
                f.write(f"[{role}-updater]\ninterval = 3\nslowdown = 0\nrecon_cache_path = {self.dir}/recon\n")
                f.write(f"[{role}-auditor]\ninterval = 30\nfiles_per_second = 1000\nrecon_cache_path = {self.dir}/recon\n[account-reaper]\n[container-sync]\n[object-expirer]\ninterval = 10\n")
        os.makedirs(f"{self.dir}/recon", exist_ok=True)
        modules = "".join(
            f"[{m}]\npath = {self.dir}/devices\nread only = false\nlock file = {self.dir}/{m}.lock\nmax connections = 16\n" for m in ROLES
        )
        with open(f"{etc}/rsyncd.conf", "w") as f:
            f.write(f"uid = 0\ngid = 0\nuse chroot = no\nlog file = {self.dir}/rsyncd.log\npid file = {self.dir}/rsyncd.pid\naddress = {self.ip}\n{modules}")

    def spawn(self, name, command):
        log = open(os.path.join(self.dir, f"{name}.log"), "ab")
        self.procs[name] = subprocess.Popen(
            ["ip", "netns", "exec", self.ns, *command], stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
        )

    def command(self, what):
        conf = f"{self.dir}/etc/{what.split('-')[0]}-server.conf"
        return self.cluster.command(self.kind, what, conf)

    def start(self):
        for role in ROLES:
            self.spawn(f"{role}-server", self.command(f"{role}-server"))
        for daemon in DAEMONS:
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
        self.procs = {}

    def wait(self):
        for port in ROLES.values():
            deadline = time.time() + 30
            while True:
                try:
                    c = http.client.HTTPConnection(self.ip, port, timeout=2)
                    c.request("GET", "/healthcheck")
                    if c.getresponse().status == 200:
                        break
                except OSError:
                    pass
                if time.time() > deadline:
                    raise SystemExit(f"node {self.n} ({self.kind}) port {port} does not answer; logs in {self.dir}")
                time.sleep(0.1)

    def teardown(self):
        self.stop()
        for d in (1, 2):
            sh("umount", "-l", self.device(d), check=False)
        sh("ip", "netns", "del", self.ns, check=False)


class Cluster:
    def __init__(self, args):
        self.dir, self.caelum, self.swift = args.dir, args.caelum, args.swift_bin
        self.kinds, self.proxy_kind = args.nodes.split(","), args.proxy
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
            f.write("[swift-hash]\nswift_hash_path_prefix = probe\nswift_hash_path_suffix = probe\n[storage-policy:0]\nname = gold\ndefault = yes\n")
        for role, port in ROLES.items():
            file = f"{self.swift_dir}/{role}.builder"
            self.ring(file, "create", "8", "3", "1")
            for n in range(1, 5):
                for d in (1, 2):
                    self.ring(file, "add", f"r1z{n}-{NET}{n}:{port}/d{d}", "100")
            self.ring(file, "rebalance", "1")
        sh("ip", "link", "add", "probebr", "type", "bridge")
        sh("ip", "addr", "add", f"{PROXY}/24", "dev", "probebr")
        sh("ip", "link", "set", "probebr", "up")
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
        pipeline = "catch_errors gatekeeper healthcheck cache listing_formats bulk tempurl tempauth copy container-quotas account-quotas slo dlo versioned_writes symlink proxy-server"
        filters = "".join(f"[filter:{f}]\nuse = egg:swift#{f.replace('-', '_')}\n" for f in pipeline.split()[:-1] if f not in ("tempauth", "cache"))
        filters += f"[filter:cache]\nuse = egg:swift#memcache\nmemcache_servers = {PROXY}:11211\n"
        if not self.memcached:
            self.memcached = subprocess.Popen(["memcached", "-l", PROXY, "-p", "11211", "-u", "nobody"], start_new_session=True)
        with open(conf, "w") as f:
            f.write(f"[DEFAULT]\nbind_ip = {PROXY}\nbind_port = {PORT}\nworkers = 2\nuser = root\nswift_dir = {self.swift_dir}\nlog_level = WARNING\n")
            f.write(f"[pipeline:main]\npipeline = {pipeline}\n[app:proxy-server]\nuse = egg:swift#proxy\naccount_autocreate = true\nnode_timeout = 3\n")
            f.write(f"conn_timeout = 0.5\nerror_suppression_interval = 5\n{filters}[filter:tempauth]\nuse = egg:swift#tempauth\nuser_test_tester = testing .admin\n")
        log = open(f"{self.dir}/proxy.log", "ab")
        self.proxy = subprocess.Popen(self.command(self.proxy_kind, "proxy-server", conf), stdout=log, stderr=log, start_new_session=True)
        deadline = time.time() + 30
        while time.time() < deadline:
            try:
                c = http.client.HTTPConnection(PROXY, PORT, timeout=2)
                c.request("GET", "/healthcheck")
                if c.getresponse().status == 200:
                    return
            except OSError:
                time.sleep(0.1)
        raise SystemExit(f"the proxy does not answer; see {self.dir}/proxy.log")

    def relink(self, action):
        for node in self.nodes:
            conf = f"{node.dir}/etc/object-server.conf"
            if node.kind == "swift":
                command = self.command("swift", "object-relinker", conf)
                command = [*command[:-1], action, conf]
            else:
                command = self.command("caelum", {"relink": "object-relink", "cleanup": "object-relink-cleanup"}[action], conf)
            done = subprocess.run(["ip", "netns", "exec", node.ns, *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            if done.returncode != 0:
                raise SystemExit(f"relinker {action} on node {node.n}: {done.stdout}")

    def stop_proxy(self):
        if self.proxy:
            try:
                os.killpg(self.proxy.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            self.proxy.wait()

    def teardown(self):
        self.stop_proxy()
        if self.memcached:
            self.memcached.kill()
            self.memcached.wait()
        for node in self.nodes:
            node.teardown()
        sh("ip", "link", "del", "probebr", check=False)


class Client:
    """One connection with a token."""

    def __init__(self):
        self.conn = None
        for _ in range(100):
            try:
                c = http.client.HTTPConnection(PROXY, PORT, timeout=30)
                c.request("GET", "/auth/v1.0", headers={"X-Auth-User": "test:tester", "X-Auth-Key": "testing"})
                r = c.getresponse()
                r.read()
                if r.status == 200:
                    self.token = r.getheader("X-Auth-Token")
                    self.base = urllib.parse.urlparse(r.getheader("X-Storage-Url")).path
                    return
            except (OSError, http.client.HTTPException):
                pass
            time.sleep(0.2)
        raise SystemExit("no token")

    def call(self, method, path, body=None, headers=None):
        """(status, headers, body); status 0 when no answer came."""
        try:
            if self.conn is None:
                self.conn = http.client.HTTPConnection(PROXY, PORT, timeout=30)
            self.conn.request(method, self.base + path, body=body, headers={"X-Auth-Token": self.token, **(headers or {})})
            r = self.conn.getresponse()
            data = r.read()
            return r.status, r.headers, data
        except (OSError, http.client.HTTPException):
            self.conn = None
            return 0, {}, b""


class Model:
    """What must be there: per name the contents that may be found (None: absent)."""

    def __init__(self):
        self.lock, self.state = threading.Lock(), {}
        self.counts, self.wrong = {}, []

    def count(self, what):
        with self.lock:
            self.counts[what] = self.counts.get(what, 0) + 1

    def bad(self, text):
        with self.lock:
            self.wrong.append(text)


def digest(data):
    return hashlib.md5(data).hexdigest()


def worker(model, containers, seed, operations):
    rng, client = random.Random(seed), Client()
    names = []
    for i in range(operations):
        kind = rng.choices(["put", "get", "delete", "over"], [45, 35, 10, 10])[0] if names else "put"
        if kind in ("put", "over"):
            name = rng.choice(names) if kind == "over" else f"/{rng.choice(containers)}/s{seed}-{i}"
            if kind == "put":
                names.append(name)
            body = rng.randbytes(rng.choice([0, 1, 900, 4096, 70_000, 300_000] if i % 20 else [2_000_000]))
            status, _, _ = client.call("PUT", name, body)
            before = model.state.get(name, {None})
            model.state[name] = {digest(body)} if status == 201 else before | {digest(body)}
            model.count(f"put {status}")
        elif kind == "delete":
            name = rng.choice(names)
            status, _, _ = client.call("DELETE", name)
            before = model.state[name]
            model.state[name] = {None} if status == 204 or (status == 404 and before == {None}) else before | {None}
            model.count(f"delete {status}")
        else:
            name = rng.choice(names)
            status, _, body = client.call("GET", name)
            model.count(f"get {status}")
            # During faults an older state may be served, never bytes that nobody wrote.
            if status == 200:
                model.seen.setdefault(name, set()).add(digest(body)) if hasattr(model, "seen") else None


def saboteur(cluster, stop, seed, log):
    rng = random.Random(seed)
    while not stop.wait(rng.uniform(1, 3)):
        node = rng.choice(cluster.nodes)
        fault = rng.choice(["kill", "freeze", "cut", "slow", "fill", "wipe"])
        log.append(f"{fault} {node.n}")
        if fault == "kill":
            node.stop()
            stop.wait(rng.uniform(1, 4))
            node.start()
        elif fault == "freeze":
            node.signal(signal.SIGSTOP)
            stop.wait(rng.uniform(1, 4))
            node.signal(signal.SIGCONT)
        elif fault == "cut":
            sh("ip", "link", "set", f"pr{node.n}", "down")
            stop.wait(rng.uniform(1, 4))
            sh("ip", "link", "set", f"pr{node.n}", "up")
        elif fault == "slow":
            sh("ip", "netns", "exec", node.ns, "tc", "qdisc", "replace", "dev", "eth0", "root", "tbf", "rate", "2mbit", "burst", "16kb", "latency", "400ms")
            stop.wait(rng.uniform(2, 5))
            sh("ip", "netns", "exec", node.ns, "tc", "qdisc", "del", "dev", "eth0", "root", check=False)
        elif fault == "fill":
            path = os.path.join(node.device(rng.choice([1, 2])), "ballast")
            subprocess.run(["dd", "if=/dev/zero", f"of={path}", "bs=1M"], stderr=subprocess.DEVNULL)
            stop.wait(rng.uniform(1, 4))
            if os.path.exists(path):
                os.unlink(path)
        elif fault == "wipe":
            node.stop()
            node.wipe(rng.choice([1, 2]))
            node.start()
            # The next disk fails once this one's copies are back: three copies bear two losses, not more.
            stop.wait(cluster.recovery)
        node.wait()


def replacer(cluster, stop, seconds, log):
    """Gives each node, one after the other, to the other program, then back; the proxy in between."""
    other = {"caelum": "swift", "swift": "caelum"}
    for turn in range(2):
        for node in cluster.nodes:
            if stop.wait(seconds):
                return
            log.append(f"{node.n}:{node.kind}>{other[node.kind]}")
            node.stop()
            node.kind = other[node.kind]
            node.start()
            node.wait()
        cluster.stop_proxy()
        cluster.proxy_kind = other[cluster.proxy_kind]
        cluster.start_proxy()
        log.append(f"proxy:{cluster.proxy_kind}")


def grower(cluster, stop, log):
    """Moves a device's partitions away and back by weight, then doubles the partitions of the object ring."""

    def ring(*args):
        log.append(args[0])
        cluster.ring(f"{cluster.swift_dir}/object.builder", *args)

    for weight in ("0", "100"):
        ring("set_weight", f"{NET}2/d1", weight, "--yes")
        ring("pretend_min_part_hours_passed")
        ring("rebalance")
        if stop.wait(20):
            return
    # Servers look at the ring every 15 s; each step waits until all have seen the one before.
    ring("prepare_increase_partition_power")
    ring("write_ring")
    stop.wait(20)
    cluster.relink("relink")
    ring("increase_partition_power")
    ring("write_ring")
    stop.wait(20)
    cluster.relink("cleanup")
    ring("finish_increase_partition_power")
    ring("write_ring")
    log.append("finished")


def bit_rot(cluster, model):
    """Flips one byte in the middle of every data file of one node; returns how many were hurt."""
    hurt = 0
    node = cluster.nodes[0]
    for d in (1, 2):
        for top, _, files in os.walk(os.path.join(node.device(d), "objects")):
            for name in files:
                path = os.path.join(top, name)
                size = os.path.getsize(path)
                if not name.endswith(".data") or not size:
                    continue
                with open(path, "r+b") as f:
                    f.seek(size // 2)
                    byte = f.read(1)
                    f.seek(size // 2)
                    f.write(bytes([byte[0] ^ 1]))
                hurt += 1
    # What the page cache holds was changed as well; nothing else has to be dropped.
    wrong, client = 0, Client()
    for name, states in model.state.items():
        status, _, body = client.call("GET", name)
        found = digest(body) if status == 200 else None if status == 404 else status
        wrong += found not in states
    node.spawn("object-auditor", node.command("object-auditor"))
    return hurt, wrong


def quarantined(node):
    n = 0
    for d in (1, 2):
        top = os.path.join(node.device(d), "quarantined", "objects")
        n += len(os.listdir(top)) if os.path.isdir(top) else 0
    return n


def dispersion(cluster, model):
    """Live objects, those that may or may not be there, and data files of all."""
    live = sum(states != {None} and None not in states for states in model.state.values())
    unsure = sum(None in states and len(states) > 1 for states in model.state.values())
    found = sum(replicas(cluster).values())
    return live, unsure, found


def verify(cluster, model, containers):
    """Problems found now."""
    client, out = Client(), []
    listed = {}
    for c in containers:
        marker, names = "", set()
        while True:
            status, _, body = client.call("GET", f"/{c}?format=json&limit=5000&marker=" + urllib.parse.quote(marker))
            if status not in (200, 204):
                return [f"listing of {c}: {status}"]
            page = json.loads(body) if body else []
            if not page:
                break
            names.update((o["name"], o["hash"]) for o in page)
            marker = page[-1]["name"]
        listed[c] = dict(names)
    for name, states in list(model.state.items()):
        status, _, body = client.call("GET", name, headers={"X-Newest": "true"})
        found = digest(body) if status == 200 else None if status == 404 else f"status {status}"
        if found not in states:
            what = "lost" if found is None else "came back" if states == {None} else "wrong bytes"
            out.append(f"{name}: {what} ({found}, expected {sorted(map(str, states))})")
            continue
        container, key = name[1:].split("/", 1)
        if listed[container].get(key) != found:
            out.append(f"{name}: listed as {listed[container].get(key)}, is {found}")
    return out


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


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("caelum")
    p.add_argument("--operations", type=int, default=20_000)
    p.add_argument("--clients", type=int, default=8)
    p.add_argument("--nodes", default="caelum", help="kinds of the four nodes, in turn: caelum, swift")
    p.add_argument("--proxy", default="caelum")
    p.add_argument("--swift-bin", default="", help="directory with the programs of the other Swift")
    p.add_argument("--sync", default="rsync", choices=["rsync", "ssync"])
    p.add_argument("--no-faults", action="store_true")
    p.add_argument("--replace", type=float, default=0, help="seconds between replacements of nodes by the other program, instead of faults")
    p.add_argument("--grow", action="store_true", help="change the ring and double its partitions under load, instead of faults")
    p.add_argument("--bit-rot", action="store_true", help="afterwards, hurt every data file of one node")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--recovery", type=float, default=15)
    p.add_argument("--device-mib", type=int, default=1024)
    p.add_argument("--dir", default="/tmp/object-probe")
    p.add_argument("--keep", action="store_true", help="leave logs and configuration")
    args = p.parse_args()
    shutil.rmtree(args.dir, ignore_errors=True)
    os.makedirs(args.dir)
    cluster, model, faults = Cluster(args), Model(), []
    cluster.recovery = args.recovery
    model.seen = {}
    containers = [f"c{i}" for i in range(8)]
    failed = True
    try:
        cluster.setup()
        cluster.start()
        client = Client()
        for c in containers:
            deadline = time.time() + 30
            while (answer := client.call("PUT", f"/{c}"))[0] not in (201, 202):
                if time.time() > deadline:
                    raise SystemExit(f"containers cannot be made: {answer[0]} {answer[2][:200]!r}")
        stop = threading.Event()
        threads = [threading.Thread(target=worker, args=(model, containers, args.seed * 1000 + i, args.operations // args.clients)) for i in range(args.clients)]
        if args.grow:
            bad = threading.Thread(target=grower, args=(cluster, stop, faults))
        elif args.replace:
            bad = threading.Thread(target=replacer, args=(cluster, stop, args.replace, faults))
        else:
            bad = threading.Thread(target=saboteur, args=(cluster, stop, args.seed, faults))
        started = time.time()
        for t in threads:
            t.start()
        if not args.no_faults:
            bad.start()
        for t in threads:
            t.join()
        took = time.time() - started
        if not args.replace and not args.grow:
            stop.set()
        if not args.no_faults:
            bad.join()
        healed, problems = time.time(), ["not looked yet"]
        while problems and time.time() - healed < CONVERGED + 60:
            time.sleep(3)
            problems = verify(cluster, model, containers)
            live, unsure, found = dispersion(cluster, model)
            if not 3 * live <= found <= 3 * (live + unsure):
                problems.append(f"{found} data files of {live} live objects ({unsure} unsure)")
        converged = time.time() - healed
        print(f"operations        {sum(model.counts.values())} in {took:.0f} s: " + ", ".join(f"{k}: {v}" for k, v in sorted(model.counts.items())))
        print(f"faults            {len(faults)}: " + " ".join(sorted(faults)))
        print(f"names             {len(model.state)}, {sum(s == {None} for s in model.state.values())} deleted for certain")
        print(f"converged after   {converged:.0f} s" if not problems else f"not converged after {converged:.0f} s")
        print(f"data files        {replicas(cluster)}")
        for line in problems[:20]:
            print("  " + line)
        failed = bool(problems) or converged > CONVERGED
        if args.bit_rot and not failed:
            hurt, wrong = bit_rot(cluster, model)
            rotten = time.time()
            while time.time() - rotten < 120 and (quarantined(cluster.nodes[0]) < hurt or verify(cluster, model, containers)):
                time.sleep(2)
            found = quarantined(cluster.nodes[0])
            live, unsure, files = dispersion(cluster, model)
            print(f"bit rot           {hurt} files hurt, {found} quarantined, {wrong} wrong answers, {files} data files of {live} objects after {time.time() - rotten:.0f} s")
            failed = found < hurt or wrong or files < 3 * live
        print(f"problems          {len(problems)}")
    finally:
        cluster.teardown()
        if not args.keep and not failed:
            shutil.rmtree(args.dir, ignore_errors=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
