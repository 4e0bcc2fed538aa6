"""What scripts/object-probe's clients wrote and what must be found: through the proxy and on every node."""

import gzip
import hashlib
import http.client
import json
import math
import os
import random
import struct
import threading
import time
import urllib.parse
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate

# Two probes run side by side with another name and network each.
TAG = os.environ.get("PROBE_NAME", "probe")
NET = os.environ.get("PROBE_NET", "10.77.0.")
PROXY = NET + "254"
PORT = 8080
ROLES = {"account": 6202, "container": 6201, "object": 6200}
HASH = b"probe"
ACCOUNT = "AUTH_test"
TYPES = ["text/plain", "application/octet-stream", "image/png", "text/html; charset=UTF-8"]


def digest(data):
    return hashlib.md5(data).hexdigest()


def quoted(text):
    return urllib.parse.quote(text)


class Client:
    """One connection with a token."""

    def __init__(self, ip=PROXY, user="test:tester", key="testing"):
        self.conn, self.ip = None, ip
        for _ in range(100):
            try:
                c = http.client.HTTPConnection(ip, PORT, timeout=30)
                c.request("GET", "/auth/v1.0", headers={"X-Auth-User": user, "X-Auth-Key": key})
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
        """(status, headers, body); status 0 when no whole answer came."""
        # A kept connection may have been closed meanwhile; reading anew harms nothing.
        for _ in range(2 if self.conn and method in ("GET", "HEAD") else 1):
            answer = self.once(method, path, body, headers)
            if answer[0]:
                break
        return answer

    def once(self, method, path, body, headers):
        try:
            if self.conn is None:
                self.conn = http.client.HTTPConnection(self.ip, PORT, timeout=30)
            self.conn.request(method, self.base + quoted(path) if "?" not in path else self.base + path, body=body, headers={"X-Auth-Token": self.token, **(headers or {})})
            r = self.conn.getresponse()
            data = r.read()
            return r.status, r.headers, data
        except (OSError, http.client.HTTPException):
            self.conn = None
            return 0, {}, b""


class Gate:
    """Lets so many operations through that some are left for every fault."""

    def __init__(self, total, steps):
        self.cond, self.total, self.steps = threading.Condition(), total, max(1, steps)
        self.allowed = self.used = 0.0

    def open(self, share=None):
        """Lets a step's share through, or everything."""
        with self.cond:
            self.allowed = self.total if share is None else min(self.total, self.allowed + share * self.total / self.steps)
            self.cond.notify_all()

    def take(self):
        with self.cond:
            while self.used >= self.allowed and self.allowed < self.total:
                self.cond.wait(1)
            self.used += 1

    def wait_used(self, stop):
        """Until at most a third of a step's share is left over from before."""
        while self.used < self.allowed - self.total / self.steps / 3 and not stop.wait(0.1):
            pass


class Model:
    """What must be there: per name the versions that may be found, each `(MD5, content type, metadata)` or `None`
    for absent; per container and for the account the values their metadata may have."""

    def __init__(self):
        self.lock, self.state, self.written, self.marks = threading.Lock(), {}, {}, {}
        self.counts, self.wrong, self.broken = {}, [], 0

    def count(self, what):
        with self.lock:
            self.counts[what] = self.counts.get(what, 0) + 1

    def bad(self, text):
        with self.lock:
            self.wrong.append(text)

    def put(self, name, version, status):
        before = self.state.get(name, {None})
        self.remember(name, version)
        self.state[name] = {version} if status == 201 else before | {version}

    def post(self, name, content_type, meta, status):
        before = self.state[name]
        after = {v and (v[0], content_type or v[1], meta) for v in before}
        for v in after:
            self.remember(name, v)
        if name in self.written:
            # A node that missed a deletion may take it all the same, and serve it until it learns better.
            _, types, metas = self.written[name]
            types.update({content_type} - {None})
            metas.add(meta)
        self.state[name] = after if status == 202 else before | after

    def delete(self, name, status):
        before = self.state[name]
        self.state[name] = {None} if status == 204 or (status == 404 and before == {None}) else before | {None}

    def remember(self, name, version):
        if version:
            seen = self.written.setdefault(name, (set(), set(), set()))
            for values, value in zip(seen, version):
                values.add(value)

    def plausible(self, name, version):
        """During faults an older state may be served, never what nobody wrote."""
        return all(v in values for v, values in zip(version, self.written[name]))


def found(status, headers, body):
    """The version that an answer shows, or text about what is wrong with it."""
    if status == 404:
        return None
    if status != 200:
        return f"status {status}"
    md5 = digest(body)
    if headers.get("ETag", "").strip('"') != md5:
        return f"bytes {md5} with ETag {headers.get('ETag')}"
    stamp = headers.get("X-Timestamp", "")
    try:
        moment = formatdate(math.ceil(float(stamp)), usegmt=True)
    except ValueError:
        return f"X-Timestamp {stamp!r}"
    if headers.get("Last-Modified") != moment:
        return f"Last-Modified {headers.get('Last-Modified')} with X-Timestamp {stamp}"
    meta = tuple(sorted((k.lower(), v) for k, v in headers.items() if k.lower().startswith("x-object-meta-")))
    return md5, headers.get("Content-Type"), meta


def random_meta(rng, i):
    meta = {f"x-object-meta-{w}": f"{w} {i} {rng.randrange(1000)}" for w in rng.sample(["colour", "size-of", "owner", "mtime"], rng.randrange(3))}
    if rng.random() < 0.1:
        meta["x-object-meta-long"] = "v" * 200
    return meta, tuple(sorted(meta.items()))


def worker(model, containers, seed, operations, gate, mix, sizes):
    rng, client = random.Random(seed), Client()
    names = []
    for i in range(operations):
        gate.take()
        if i % 60 == 59:
            mark(model, client, rng.choice(containers) if seed % 2 else "", f"{seed}-{i}")
        kind = rng.choices(["put", "get", "delete", "over", "post"], mix)[0] if names else "put"
        name = f"/{rng.choice(containers)}/s{seed}-{i}{rng.choice(['', ' ä', '/deep'])}" if kind == "put" else rng.choice(names)
        if kind in ("put", "over"):
            if kind == "put":
                names.append(name)
            body = rng.randbytes(rng.choice(sizes) if i % 20 else sizes[-1] * 7)
            headers, meta = random_meta(rng, i)
            content_type = rng.choice(TYPES)
            status, _, _ = client.call("PUT", name, body, {"Content-Type": content_type, **headers})
            model.put(name, (digest(body), content_type, meta), status)
        elif kind == "post":
            headers, meta = random_meta(rng, i)
            content_type = rng.choice([None, *TYPES])
            status, _, _ = client.call("POST", name, None, {**({"Content-Type": content_type} if content_type else {}), **headers})
            model.post(name, content_type, meta, status)
        elif kind == "delete":
            status, _, _ = client.call("DELETE", name)
            model.delete(name, status)
        else:
            status, headers, body = client.call("GET", name)
            seen = found(status, headers, body)
            if status == 200 and (isinstance(seen, str) or not model.plausible(name, seen)):
                model.bad(f"{name}: served {seen}")
        model.count(f"{kind} {status}")
        if not status:
            # Nobody listens, for instance while the proxy is exchanged.
            time.sleep(0.5)


def mark(model, client, container, value):
    """Sets metadata of a container, or of the account; several clients may do so at once."""
    kind = "container" if container else "account"
    with model.lock:
        before = model.marks.setdefault(container, [set(), 0])
        before[1] += 1
        before[0].add(value)
    headers = {f"X-{kind}-Meta-Probe": value}
    status, _, _ = client.call("POST", f"/{container}" if container else "", None, headers)
    model.count(f"{kind} post {status}")


class Ring:
    """Reads a ring's file, version 1."""

    def __init__(self, file):
        raw = gzip.open(file).read()
        if raw[:6] != b"R1NG\0\1":
            raise SystemExit(f"{file}: another format")
        n = struct.unpack(">I", raw[6:10])[0]
        head, rest = json.loads(raw[10 : 10 + n]), raw[10 + n :]
        self.devs, self.shift = head["devs"], head["part_shift"]
        parts = 1 << (32 - self.shift)
        order = "<" if head["byteorder"] == "little" else ">"
        self.rows = [struct.unpack(f"{order}{len(r) // 2}H", r) for r in (rest[i : i + 2 * parts] for i in range(0, len(rest), 2 * parts))]

    def primaries(self, *path):
        md5 = hashlib.md5(HASH + b"/" + "/".join(path).encode() + HASH).digest()
        part = struct.unpack(">I", md5[:4])[0] >> self.shift
        return part, [self.devs[r[part]] for r in self.rows if part < len(r)]

    def devices(self):
        return [d for d in self.devs if d]


class Direct:
    """Requests to storage nodes, one connection per node and thread."""

    def __init__(self):
        self.local = threading.local()

    def get(self, dev, part, *path, query=""):
        conns = self.local.__dict__.setdefault("conns", {})
        key = (dev["ip"], dev["port"])
        for attempt in range(2):
            try:
                if key not in conns:
                    conns[key] = http.client.HTTPConnection(*key, timeout=20)
                conns[key].request("GET", f"/{dev['device']}/{part}/" + "/".join(quoted(p) for p in path) + query)
                r = conns[key].getresponse()
                return r.status, r.headers, r.read()
            except (OSError, http.client.HTTPException):
                conns.pop(key, None)
        return 0, {}, b""


def each(jobs, work, threads=8):
    with ThreadPoolExecutor(threads) as pool:
        return [line for lines in pool.map(work, jobs) for line in lines]


class Verifier:
    """Compares what is found with the model; what was once right is not asked for again until all is."""

    def __init__(self, model, containers, swift_dir):
        self.model, self.containers, self.swift_dir = model, containers, swift_dir
        self.todo = set(model.state)
        self.uncopied = {n for n, s in model.state.items() if None not in s}
        self.clients = threading.local()

    def client(self):
        if not hasattr(self.clients, "it"):
            self.clients.it = Client()
        return self.clients.it

    def listing(self, container):
        marker, out = "", {}
        while True:
            status, _, body = self.client().call("GET", f"/{container}?format=json&limit=5000&marker=" + quoted(marker))
            if status not in (200, 204):
                return f"listing of {container}: {status}"
            page = json.loads(body) if body else []
            if not page:
                return out
            out.update((o["name"], o) for o in page)
            marker = page[-1]["name"]

    def object(self, name, listed):
        states = self.model.state[name]
        seen = found(*self.client().call("GET", name))
        if seen not in states:
            what = "lost" if seen is None else "came back" if states == {None} else "wrong"
            return [f"{name}: {what} ({seen}, expected {sorted(map(str, states))})"]
        entry = listed.get(name[1:].split("/", 1)[1])
        # A listing gives a content type's parameters without the space before them.
        if (entry is None) != (seen is None) or entry and (entry["hash"], entry["content_type"]) != (seen[0], seen[1].replace("; ", ";")):
            return [f"{name}: listed as {entry}, is {seen}"]
        self.todo.discard(name)
        return []

    def run(self):
        """Problems found now, through the proxy."""
        lists = {c: self.listing(c) for c in self.containers}
        out = [text for text in lists.values() if isinstance(text, str)]
        if out:
            return out
        known = {c: set() for c in self.containers}
        for name in self.model.state:
            container, key = name[1:].split("/", 1)
            known[container].add(key)
        out += [f"/{c}/{n}: listed, nobody wrote it" for c in self.containers for n in set(lists[c]) - known[c]]
        out += each(sorted(self.todo), lambda name: self.object(name, lists[name[1:].split("/", 1)[0]]))
        for container, (values, _) in self.model.marks.items():
            kind = "Container" if container else "Account"
            status, headers, _ = self.client().call("HEAD", f"/{container}" if container else "")
            if headers.get(f"X-{kind}-Meta-Probe") not in values:
                out.append(f"/{container}: {status}, metadata {headers.get(f'X-{kind}-Meta-Probe')}")
        return out

    def again(self):
        """Everything is to be looked at once more."""
        self.__init__(self.model, self.containers, self.swift_dir)

    def databases(self):
        """Each container and the account, as each of its nodes has it."""
        direct, out = Direct(), []
        for role, names in (("container", [(ACCOUNT, c) for c in self.containers]), ("account", [(ACCOUNT,)])):
            ring = Ring(f"{self.swift_dir}/{role}.ring.gz")
            for name in names:
                part, primaries = ring.primaries(*name)
                views = {f"{d['ip']}/{d['device']}": self.database(direct, role, d, part, name) for d in primaries}
                if len(set(views.values())) != 1 or any(v[0] != 200 for v in views.values()):
                    out.append(f"{role} /{'/'.join(name)} differs: " + "; ".join(f"{k} {v[:3]}" for k, v in views.items()))
        return out

    @staticmethod
    def database(direct, role, dev, part, name):
        status, headers, body = direct.get(dev, part, *name, query="?format=json&limit=10000")
        title = f"x-{role}-"
        kept = tuple(sorted((k.lower(), v) for k, v in headers.items() if k.lower().startswith(title) and "storage-policy" not in k.lower()))
        rows = json.loads(body) if status == 200 and body else []
        return status, kept, digest(json.dumps(rows, sort_keys=True).encode())

    def copies(self):
        """Every object that is certain, on each of its three devices: bytes and headers."""
        direct, ring = Direct(), Ring(f"{self.swift_dir}/object.ring.gz")

        def check(name):
            container, key = name[1:].split("/", 1)
            part, primaries = ring.primaries(ACCOUNT, container, key)
            out, stamps = [], set()
            for dev in primaries:
                status, headers, body = direct.get(dev, part, ACCOUNT, container, key)
                seen = found(status, headers, body)
                stamps.add((headers.get("X-Backend-Timestamp"), headers.get("X-Backend-Data-Timestamp"), headers.get("X-Backend-Durable-Timestamp")))
                if seen not in self.model.state[name]:
                    out.append(f"{name} on {dev['ip']}/{dev['device']}: {seen}, expected {sorted(map(str, self.model.state[name]))}")
            if len(stamps) != 1:
                out.append(f"{name}: copies of {sorted(map(str, stamps))}")
            if not out:
                self.uncopied.discard(name)
            return out

        return each(sorted(self.uncopied), check)
