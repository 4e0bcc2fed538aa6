"""What scripts/object-daemons works on: four nodes of one device each on addresses of the loopback network, two with this
project's servers and two with the other Swift's, and a proxy of each. Daemons of either run one pass on any node, whoever
its servers are."""

import glob
import hashlib
import http.client
import json
import os
import socket
import sqlite3
import struct
import subprocess
import threading
import time

from object_model import HASH, NET, PORT, PROXY, ROLES, Client, Ring, quoted
from object_probe import Cluster, Node, proxy_conf, sh, wait_answer, wait_free

KINDS = ["caelum", "swift"]
PROXIES = {"caelum": PROXY, "swift": NET + "253"}
POLICIES = ["gold", "silver", "coded", "grown"]
CODED, GROWN = 2, 3
PIPELINE = (
    "catch_errors gatekeeper healthcheck cache listing_formats container_sync bulk tempurl tempauth copy container-quotas account-quotas "
    "slo dlo versioned_writes symlink"
)
# Everything is a small shard.
SHRINK = "shard_container_threshold = 9000\nrows_per_shard = 8000\nminimum_shard_size = 8000\nshrink_threshold = 8000\nexpansion_limit = 8500\n"
SHARDER = "shard_container_threshold = 400\nrows_per_shard = 200\nminimum_shard_size = 50\nshrink_threshold = 50\nexpansion_limit = 300\n"


# The other Swift's programs write to nothing but syslog.
LOG = f"log_udp_host = {PROXY}\nlog_udp_port = 5514\n"


class Wrong(Exception):
    """A case has found what must not be."""


def other(kind):
    return KINDS[1 - KINDS.index(kind)]


def hash_of(*path):
    return hashlib.md5(HASH + b"/" + "/".join(path).encode() + HASH).hexdigest()


def node_call(dev, method, path, headers=None, body=None):
    """A request to a storage node: (status, headers, body)."""
    conn = http.client.HTTPConnection(dev["ip"], dev["port"], timeout=20)
    try:
        conn.request(method, f"/{dev['device']}" + path, body=body, headers=headers or {})
        answer = conn.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        conn.close()


class Seat(Node):
    """A node on a loopback address."""

    def __init__(self, cluster, n):
        super().__init__(cluster, n)
        self.disk = os.path.join(cluster.dir, "disks", f"n{n}")

    def setup(self):
        os.makedirs(self.device(1))
        image = os.path.join(self.cluster.dir, "disks", f"n{self.n}.img")
        with open(image, "wb") as f:
            f.truncate(400 << 20)
        sh("mkfs.xfs", "-q", "-i", "size=512", image)
        sh("mount", "-o", "loop,noatime", image, self.device(1))
        self.configure()
        self.configure_rsync(f"{self.disk}")

    def device(self, d=1):
        return os.path.join(self.disk, f"d{self.n}")

    def inside(self):
        return []

    def stop_server(self, name):
        p = self.procs.pop(name)
        os.killpg(p.pid, 9)
        p.wait()
        wait_free(self.ip, ROLES[name.split("-")[0]])

    def conf(self, role, name=None):
        return f"{self.dir}/etc/{name or role}-server.conf"

    def configure(self):
        os.makedirs(f"{self.dir}/etc", exist_ok=True)
        for role, port in ROLES.items():
            self.write(role, port)
        # Two expirers share the queue; one lets a container's objects stay longer.
        for p in range(2):
            self.write("object", ROLES["object"], f"turn{p}", {"object-expirer": f"processes = 2\nprocess = {p}\n"})
        self.write("object", ROLES["object"], "delayed", {"object-expirer": "delay_reaping_AUTH_test/later = 3600\n"})
        self.write("container", ROLES["container"], "shrink", {"container-sharder": SHRINK})

    def write(self, role, port, name=None, more=None):
        """A role's configuration file; `more` has options by section."""
        sections = {
            f"{role}-replicator": "concurrency = 2\nper_diff = 1000\nrsync_timeout = 20\nsync_method = ssync\n",
            f"{role}-updater": "slowdown = 0\naccount_suppression_time = 0\n",
            f"{role}-auditor": "files_per_second = 1000\n",
            "account-reaper": "",
            "container-sharder": "auto_shard = true\ncleave_batch_size = 2\n" + ("" if more else SHARDER),
            "container-sync": "",
            "object-reconstructor": "concurrency = 2\n",
            "object-expirer": "dequeue_from_legacy = true\ninterval = 1\n",
            "object-relinker": "",
        }
        with open(self.conf(role, name), "w") as f:
            f.write(
                f"[DEFAULT]\nbind_ip = {self.ip}\nbind_port = {port}\nworkers = 1\nuser = root\nswift_dir = {self.cluster.swift_dir}\n"
                f"devices = {self.disk}\nmount_check = false\nlog_level = INFO\n{LOG}fallocate_reserve = 0\nconn_timeout = 1\nnode_timeout = 5\n"
                f"allowed_sync_hosts = {','.join(PROXIES.values())}\n"
                f"[pipeline:main]\npipeline = healthcheck recon {role}-server\n[app:{role}-server]\nuse = egg:swift#{role}\n"
                f"[filter:healthcheck]\nuse = egg:swift#healthcheck\n[filter:recon]\nuse = egg:swift#recon\nrecon_cache_path = {self.dir}/recon\n"
            )
            for section, text in sections.items():
                if section.startswith(role):
                    f.write(f"[{section}]\nrecon_cache_path = {self.dir}/recon\n{text}{(more or {}).get(section, '')}")


class Cell(Cluster):
    def __init__(self, args):
        args.nodes, args.proxy, args.device_mib, args.sync = "caelum,swift", "caelum", 0, "ssync"
        self.dir = args.dir
        super().__init__(args)
        self.nodes = [Seat(self, n) for n in range(1, 5)]
        self.proxies, self.clients, self.notes = {}, {}, []

    # Setting up

    def setup(self):
        sh("ip", "link", "set", "lo", "up")
        os.makedirs(self.swift_dir)
        os.makedirs(os.path.join(self.dir, "disks"))
        sh("mount", "-t", "tmpfs", "-o", "size=2g", "none", os.path.join(self.dir, "disks"))
        os.makedirs("/etc/swift", exist_ok=True)
        with open(f"{self.swift_dir}/swift.conf", "w") as f:
            f.write(f"[swift-hash]\nswift_hash_path_prefix = {HASH.decode()}\nswift_hash_path_suffix = {HASH.decode()}\n")
            for i, name in enumerate(POLICIES):
                f.write(f"[storage-policy:{i}]\nname = {name}\n{'default = yes' if not i else ''}\n")
                if i == CODED:
                    f.write("policy_type = erasure_coding\nec_type = liberasurecode_rs_vand\nec_num_data_fragments = 2\nec_num_parity_fragments = 1\n")
                    f.write("ec_object_segment_size = 65536\n")
        internal = f"[DEFAULT]\nuser = root\n{LOG}[pipeline:main]\npipeline = catch_errors cache symlink proxy-server\n[app:proxy-server]\nuse = egg:swift#proxy\n"
        internal += "account_autocreate = true\nallow_account_management = true\n" + "".join(f"[filter:{f}]\nuse = egg:swift#{f}\n" for f in ("catch_errors", "symlink"))
        internal += f"[filter:cache]\nuse = egg:swift#memcache\nmemcache_servers = {PROXY}:11211\n"
        for name, section in (("internal-client", ""), ("container-reconciler", "[container-reconciler]\n")):
            with open(f"{self.swift_dir}/{name}.conf", "w") as f:
                f.write(internal + section)
        with open(f"{self.swift_dir}/container-sync-realms.conf", "w") as f:
            f.write("[realm]\nkey = realm key\n" + "".join(f"cluster_{k} = http://{ip}:{PORT}/v1/\n" for k, ip in PROXIES.items()))
        rings = [("account", "account"), ("container", "container")] + [("object", "object" + (f"-{i}" if i else "")) for i in range(len(POLICIES))]
        for role, name in rings:
            file = f"{self.swift_dir}/{name}.builder"
            self.ring(file, "create", "4", "3", "1")
            for n in range(1, 5):
                self.ring(file, "add", f"r1z{n}-{NET}{n}:{ROLES[role]}/d{n}", "100")
            self.ring(file, "rebalance", "1")
        for node in self.nodes:
            node.setup()

    def listen(self):
        """Takes down what is sent to syslog."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s, open(f"{self.dir}/syslog", "ab", buffering=0) as f:
            s.bind((PROXY, 5514))
            while True:
                f.write(s.recv(65536).rstrip(b"\0") + b"\n")

    def start(self):
        threading.Thread(target=self.listen, daemon=True).start()
        self.memcached = subprocess.Popen(["memcached", "-l", PROXY, "-p", "11211", "-u", "nobody"])
        for node in self.nodes:
            node.start(daemons=[])
        for node in self.nodes:
            node.wait()
        self.start_proxies()
        # The account.
        self.put("caelum", "/first")

    def start_proxies(self):
        users = "user_test_tester = testing .admin\nuser_admin_admin = admin .admin .reseller_admin\n"
        for kind, ip in PROXIES.items():
            conf = f"{self.swift_dir}/proxy-{kind}.conf"
            with open(conf, "w") as f:
                f.write(proxy_conf(self.swift_dir, ip, PROXY, PIPELINE, users, "allow_account_management = true\n").replace("workers = 2\n", f"workers = 1\n{LOG}"))
            log = open(f"{self.dir}/proxy-{kind}.log", "ab")
            self.proxies[kind] = subprocess.Popen(self.command(kind, "proxy-server", conf), stdout=log, stderr=log, start_new_session=True)
        for kind, ip in PROXIES.items():
            wait_answer(ip, PORT, f"the proxy of {kind}, log in {self.dir}")

    def new_rings(self):
        """Proxies that know the rings of now: they look only every 15 s."""
        for p in self.proxies.values():
            os.killpg(p.pid, 9)
            p.wait()
        time.sleep(0.3)
        self.start_proxies()
        self.flush()

    def teardown(self):
        for p in self.proxies.values():
            os.killpg(p.pid, 9)
        for node in self.nodes:
            node.signal(9)
        self.memcached.kill()

    # Daemons

    def daemon(self, kind, what, *options, nodes=None, conf=None):
        """One pass on these nodes at once; `mixed` is each node's own kind. What the programs said, by node."""
        running = []
        for node in nodes or self.nodes:
            who = node.kind if kind == "mixed" else kind
            role = what.split("-")[0]
            file = conf if conf and "/" in conf else node.conf(role, conf)
            command = self.command(who, what, file)
            if who == "caelum":
                command = [*command[:-1], *options, what, "--once"]
            elif what == "object-relinker":
                command = [*command[:-1], options[0], file, *options[1:]]
            else:
                command = [*command, "once", "-v", *options]
            log = open(f"{node.dir}/{what}-{who}.log", "ab+")
            log.write(f"---- {command}\n".encode())
            log.flush()
            running.append((node, who, log, log.tell(), subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)))
        out = {}
        for node, who, log, start, p in running:
            try:
                code = p.wait(timeout=60)
            except subprocess.TimeoutExpired:
                os.killpg(p.pid, 9)
                raise Wrong(f"{what} of {who} on node {node.n} did not end")
            log.seek(start)
            out[node.n] = log.read().decode(errors="replace")
            log.close()
            for line in out[node.n].splitlines():
                if "ERROR" in line or "Traceback" in line or "panicked" in line:
                    self.notes.append(f"{what} of {who} on node {node.n}: {line[-200:]}")
            if code:
                raise Wrong(f"{what} of {who} on node {node.n}: code {code}: {out[node.n][-400:]}")
        return out

    def tool(self, name, *args, ok=(0,)):
        """A program of the other Swift's."""
        command = self.command("swift", name, "")[:-1] + list(args)
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60)
        if done.returncode not in ok:
            raise Wrong(f"swift-{name} {' '.join(args)}: code {done.returncode}: {done.stdout[-400:]}")
        return done.stdout

    # Clients

    def flush(self):
        """Forgets what proxies remember, tokens too."""
        with socket.create_connection((PROXY, 11211), timeout=5) as s:
            s.sendall(b"flush_all\r\n")
            s.recv(100)
        self.clients = {}

    def client(self, kind, user="test:tester", key="testing"):
        if (kind, user) not in self.clients:
            self.clients[kind, user] = Client(PROXIES[kind], user, key)
        return self.clients[kind, user]

    def call(self, kind, method, path, body=None, headers=None, expect=None):
        answer = self.client(kind).call(method, path, body, headers)
        if expect and answer[0] not in expect:
            raise Wrong(f"{method} {path} through the proxy of {kind}: {answer[0]} {answer[2][:200]!r}, expected {expect}")
        return answer

    def put(self, kind, path, body=b"", headers=None):
        return self.call(kind, "PUT", path, body, headers, expect=(201, 202))

    def listing(self, kind, container, query=""):
        marker, out = "", []
        while True:
            _, _, body = self.call(kind, "GET", f"/{container}?format=json&limit=1000&marker={quoted(marker)}{query}", expect=(200,))
            page = json.loads(body)
            if not page:
                return out
            out += page
            marker = page[-1]["name"]

    def same_listing(self, container, names, what, kinds=KINDS):
        """Both proxies list these names, and the same of each."""
        self.flush()
        lists = {k: self.listing(k, container) for k in kinds}
        for kind, rows in lists.items():
            found = [r["name"] for r in rows]
            if found != sorted(names):
                lack, more = sorted(set(names) - set(found)), sorted(set(found) - set(names))
                raise Wrong(f"{what}: proxy of {kind} lists {len(found)} of {len(names)}: lacks {lack[:3]} ({len(lack)}), has {more[:3]} ({len(more)}) besides")
        if len(kinds) > 1 and lists["caelum"] != lists["swift"]:
            a, b = next((a, b) for a, b in zip(lists["caelum"], lists["swift"]) if a != b)
            raise Wrong(f"{what}: listings differ: {a} and {b}")
        return lists["caelum"]

    # What is on the devices

    def place(self, role, *path):
        part, devs = Ring(f"{self.swift_dir}/{role}.ring.gz").primaries(*path)
        return part, devs

    def node_of(self, dev):
        return next(n for n in self.nodes if n.ip == dev["ip"])

    def files(self, policy, *path):
        """An object's files, by device."""
        h, datadir = hash_of(*path), "objects" + (f"-{policy}" if policy else "")
        out = {}
        for node in self.nodes:
            found = glob.glob(f"{node.device()}/{datadir}/*/{h[-3:]}/{h}/*")
            if found:
                out[f"d{node.n}"] = sorted(found)
        return out

    def names(self, policy, *path):
        """The names of an object's files, by device."""
        return {d: [os.path.basename(f) for f in files] for d, files in self.files(policy, *path).items()}

    def databases(self, kind, *path):
        """Files of a container's or account's databases, by device."""
        h = hash_of(*path)
        found = {f"d{n.n}": sorted(glob.glob(f"{n.device()}/{kind}s/*/{h[-3:]}/{h}/*.db")) for n in self.nodes}
        return {d: f for d, f in found.items() if f}

    def rows(self, *path):
        """A container's rows as each of its nodes tells them; checks that they are equal."""
        part, devs = self.place("container", *path)
        views = {}
        for dev in devs:
            status, _, body = node_call(dev, "GET", f"/{part}/" + "/".join(quoted(p) for p in path) + "?format=json&limit=10000")
            views[dev["device"]] = json.loads(body) if status == 200 else status
        first = next(iter(views.values()))
        if any(v != first for v in views.values()):
            raise Wrong(f"nodes differ about /{'/'.join(path)}: {str(views)[:600]}")
        return first


def query(file, text):
    """Rows of a database as they are committed."""
    db = sqlite3.connect(f"file:{file}?mode=ro", uri=True)
    try:
        return db.execute(text).fetchall()
    finally:
        db.close()


def attributes(file):
    """An object's metadata as it is stored."""
    out = b""
    for i in range(100):
        try:
            out += os.getxattr(file, "user.swift.metadata" + (str(i) if i else ""))
        except OSError:
            break
    return out


def partition_of(h, power):
    return struct.unpack(">I", bytes.fromhex(h)[:4])[0] >> (32 - power)
