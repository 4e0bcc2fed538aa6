"""Driver of scripts/crash-test: clients make and delete servers while a killer ends the program with
SIGKILL and starts it again on the same data directory. Checks afterwards that nothing is stuck, nothing
leaked and nothing that was acknowledged got lost. Standard library only."""

import argparse
import base64
import collections
import http.client
import json
import os
import random
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time

SETTLED = 60  # seconds that everything has to come to rest after the last start
WAIT = 120  # seconds a client waits for a server or volume to get somewhere
TRANSITIONAL = {"creating", "attaching", "detaching", "deleting", "reserved", "downloading", "uploading", "extending", "retyping"}
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class Down(Exception):
    """No answer came; whether the request took effect is open."""


class Failed(Exception):
    """The cloud did something that it must not."""


class Tally:
    """What happened, from all threads."""

    def __init__(self):
        self.lock = threading.Lock()
        self.count = collections.Counter()
        self.notes = []
        self.answers = collections.Counter()
        self.samples = {}

    def add(self, key, n=1):
        with self.lock:
            self.count[key] += n

    def note(self, kind, text):
        with self.lock:
            self.count[kind] += 1
            self.notes.append(f"{kind}: {text}")

    def answer(self, method, path, status, text):
        key = f"{status} {method} {UUID.sub('ID', path.split('?')[0])}"
        with self.lock:
            self.answers[key] += 1
            self.samples.setdefault(key, text[:300])


class Cloud:
    """The program on a scratch directory."""

    def __init__(self, caelum, mode, data, port):
        self.caelum, self.data, self.port = caelum, data, port
        self.args = [caelum, "serve", "--data", data, "--hypervisor", mode, "--listen", f"127.0.0.1:{port}",
                     "--set", "identity.bcrypt_rounds=4",
                     # Not the default range: another cloud may run on this machine.
                     "--set", "network.public_cidr=172.24.96.0/24", "--set", "network.public_gateway=172.24.96.1"]
        self.process = None
        self.restarts = []
        self.log = open(os.path.join(os.path.dirname(data), "caelum.log"), "ab")

    def start(self):
        began = time.monotonic()
        self.process = subprocess.Popen(self.args, stdout=self.log, stderr=self.log, start_new_session=True)
        while time.monotonic() - began < 60:
            if self.process.poll() is not None:
                raise Failed(f"the program ended by itself with {self.process.returncode}")
            try:
                if request(self.port, "GET", "/compute/", {}, None)[0] < 500:
                    return time.monotonic() - began
            except Down:
                pass
            time.sleep(0.02)
        raise Failed("the program does not answer 60 s after its start")

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def kill_and_start(self):
        self.kill()
        self.restarts.append(self.start())

    def tool(self, *words):
        run = subprocess.run([self.caelum, *words, "--data", self.data], capture_output=True, text=True, timeout=300)
        return run.returncode, (run.stdout + run.stderr).strip()


def request(port, method, path, headers, body):
    """One request; status, headers, text. Raises Down."""
    c = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        c.request(method, path, body, headers)
        r = c.getresponse()
        return r.status, r.headers, r.read().decode("utf-8", "replace")
    except (OSError, http.client.HTTPException) as e:
        raise Down(f"{type(e).__name__}: {e}") from e
    finally:
        c.close()


class Session:
    """One user; asks again until the cloud answers."""

    def __init__(self, cloud, user, tally):
        self.cloud, self.user, self.tally, self.token = cloud, user, tally, None
        with open(os.path.join(cloud.data, f"secrets/{user}-password"), encoding="utf-8") as f:
            self.password = f.read().strip()

    def login(self):
        user = {"name": self.user, "domain": {"id": "default"}, "password": self.password}
        scope = {"project": {"name": self.user, "domain": {"id": "default"}}}
        body = {"auth": {"identity": {"methods": ["password"], "password": {"user": user}}, "scope": scope}}
        status, headers, text = request(self.cloud.port, "POST", "/identity/v3/auth/tokens",
                                        {"Content-Type": "application/json"}, json.dumps(body))
        if status != 201:
            raise Failed(f"login as {self.user}: {status} {text}")
        self.token = headers["X-Subject-Token"]

    def once(self, method, path, body=None, raw=None):
        """Status and decoded body. Raises Down when no answer came."""
        if self.token is None:
            self.login()
        headers = {"X-Auth-Token": self.token, "Content-Type": "application/octet-stream" if raw else "application/json",
                   "OpenStack-API-Version": "compute 2.90" if path.startswith("/compute") else "volume 3.59"}
        data = raw if raw is not None else (json.dumps(body) if body is not None else None)
        status, _, text = request(self.cloud.port, method, path, headers, data)
        self.tally.add("requests")
        if not (200 <= status < 300 or status in (404, 409)):
            self.tally.answer(method, path, status, text)
        try:
            return status, json.loads(text) if text else {}
        except ValueError:
            return status, {"text": text}

    def call(self, method, path, body=None, raw=None):
        """For requests that may be repeated: until an answer comes that is not 5xx."""
        until = time.monotonic() + WAIT
        while True:
            try:
                status, out = self.once(method, path, body, raw)
                if status < 500:
                    return status, out
            except Down:
                self.tally.add("no answer")
            if time.monotonic() > until:
                raise Failed(f"{method} {path}: no good answer in {WAIT} s")
            time.sleep(0.05)

    def get(self, path):
        status, out = self.call("GET", path)
        if status != 200:
            raise Failed(f"GET {path}: {status} {out}")
        return out

    def create(self, path, kind, body, find):
        """Makes one thing with a unique name; after a missing answer it is looked up. Returns its id
        and whether a 2xx was seen."""
        name = body[kind]["name"]
        until = time.monotonic() + WAIT
        while time.monotonic() < until:
            try:
                status, out = self.once("POST", path, body)
                if 200 <= status < 300:
                    return out[kind]["id"], True
                if status < 500 and status != 409:
                    raise Failed(f"POST {path}: {status} {out}")
            except Down:
                self.tally.add("no answer")
            found = [x["id"] for x in self.get(find)[kind + "s"] if x["name"] == name]
            if found:
                self.tally.add("found by name")
                return found[0], False
            time.sleep(0.05)
        raise Failed(f"POST {path}: no good answer in {WAIT} s")


class Scene:
    """What all clients share: image, network, flavor."""

    def __init__(self, cloud, tally, mode, image):
        self.cloud, self.mode = cloud, mode
        admin = Session(cloud, "admin", tally)
        raw, kind = image_bytes(image)
        body = {"name": "crash", "disk_format": kind, "container_format": "bare", "visibility": "public"}
        self.image = admin.call("POST", "/image/v2/images", body)[1]["id"]
        status, out = admin.call("PUT", f"/image/v2/images/{self.image}/file", raw=raw)
        if status != 204:
            raise Failed(f"upload: {status} {out}")
        flavor = {"name": "crash", "ram": 192, "vcpus": 1, "disk": 1}
        self.flavor = admin.call("POST", "/compute/v2.1/flavors", {"flavor": flavor})[1]["flavor"]["id"]
        user = Session(cloud, "demo", tally)
        self.network = user.call("POST", "/network/v2.0/networks", {"network": {"name": "crash"}})[1]["network"]["id"]
        subnet = {"name": "crash", "network_id": self.network, "ip_version": 4, "cidr": "10.77.0.0/22"}
        user.call("POST", "/network/v2.0/subnets", {"subnet": subnet})

    def server(self, name, from_volume):
        body = {"name": name, "flavorRef": self.flavor, "networks": [{"uuid": self.network}],
                "user_data": base64.b64encode(b"#!/bin/sh\n").decode()}
        if from_volume:
            body["block_device_mapping_v2"] = [{"uuid": self.image, "source_type": "image", "destination_type": "volume",
                                                "volume_size": 1, "boot_index": 0, "delete_on_termination": True}]
        else:
            body["imageRef"] = self.image
        return {"server": body}


def image_bytes(path):
    if path:
        with open(path, "rb") as f:
            return f.read(), "qcow2"
    if shutil.which("qemu-img"):
        with tempfile.TemporaryDirectory() as d:
            subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", f"{d}/i", "64M"], check=True)
            with open(f"{d}/i", "rb") as f:
                return f.read(), "qcow2"
    return bytes(4 << 20), "raw"


class Client(threading.Thread):
    """Makes and deletes servers, one after the other."""

    def __init__(self, number, scene, tally, work, rng):
        super().__init__(name=f"client-{number}", daemon=True)
        self.scene, self.tally, self.work, self.rng = scene, tally, work, rng
        self.s = Session(scene.cloud, "demo", tally)

    def run(self):
        while True:
            with self.work["lock"]:
                if self.work["left"] == 0:
                    return
                self.work["left"] -= 1
                n = self.work["total"] - self.work["left"]
            try:
                self.cycle(f"crash-{n}")
                self.tally.add("cycles")
            except Failed as e:
                self.tally.note("failed cycle", f"crash-{n}: {e}")
            except Exception as e:  # a client that dies silently would look like success
                self.tally.note("failed cycle", f"crash-{n}: {e!r}")

    def cycle(self, name):
        kind = self.rng.choices(["image", "attach", "from volume"], [5, 3, 2])[0]
        hasty = self.rng.random() < 0.4
        self.tally.add(f"cycles {kind}")
        volume = self.make_volume(name) if kind == "attach" else None
        body = self.scene.server(name, kind == "from volume")
        server, acked = self.s.create("/compute/v2.1/servers", "server", body, "/compute/v2.1/servers?limit=1000")
        if hasty:
            self.tally.add("deleted unseen")
            time.sleep(self.rng.uniform(0, 3))
            self.present(server, acked)
        else:
            status = self.wait_server(server, name, acked)
            if status == "ACTIVE" and volume:
                self.attach(server, volume)
            elif status == "ACTIVE" and self.rng.random() < 0.5:
                self.act(server, kind == "image")
            if status == "ACTIVE":
                time.sleep(self.rng.uniform(0, 1.5))
        self.delete_server(server, name)
        if volume:
            self.delete_volume(volume)

    def show(self, server):
        status, out = self.s.call("GET", f"/compute/v2.1/servers/{server}")
        return out["server"] if status == 200 else None

    def present(self, server, acked):
        if self.show(server) is None:
            kind = "acked create lost" if acked else "failed cycle"
            self.tally.note(kind, f"server {server} is not there after its create was answered")

    def wait_server(self, server, name, acked):
        until = time.monotonic() + WAIT
        while time.monotonic() < until:
            s = self.show(server)
            if s is None:
                self.present(server, acked)
                return "GONE"
            if s["status"] == "ERROR":
                self.tally.note("server in ERROR", f"{name} {server}: {s.get('fault', {}).get('message')}")
                return "ERROR"
            if s["status"] == "ACTIVE" and s["OS-EXT-STS:task_state"] is None:
                return "ACTIVE"
            time.sleep(0.1)
        self.tally.note("stuck", f"server {server} is {s['status']}, task {s['OS-EXT-STS:task_state']}, after {WAIT} s")
        return "STUCK"

    def act(self, server, may_rebuild):
        """One operation, whose end is waited for or not."""
        actions = [{"os-stop": None}, {"reboot": {"type": "HARD"}}, {"pause": None}]
        if may_rebuild:
            actions.append({"rebuild": {"imageRef": self.scene.image}})
        action = self.rng.choice(actions)
        self.s.call("POST", f"/compute/v2.1/servers/{server}/action", action)
        if self.rng.random() < 0.5:
            self.rest(server)

    def rest(self, server):
        until = time.monotonic() + WAIT
        while time.monotonic() < until:
            s = self.show(server)
            if s is None or s["OS-EXT-STS:task_state"] is None:
                return
            time.sleep(0.1)
        self.tally.note("stuck", f"server {server} in task {s['OS-EXT-STS:task_state']} after {WAIT} s")

    def make_volume(self, name):
        volume, _ = self.s.create("/volume/v3/volumes", "volume", {"volume": {"name": name, "size": 1}}, "/volume/v3/volumes?limit=1000")
        status = self.wait_volume(volume, {"available", "error"})
        if status != "available":
            self.tally.note("volume in error", f"{volume}: {status}")
        return volume

    def wait_volume(self, volume, states):
        until = time.monotonic() + WAIT
        status = "?"
        while time.monotonic() < until:
            code, out = self.s.call("GET", f"/volume/v3/volumes/{volume}")
            if code == 404:
                return "gone"
            status = out["volume"]["status"]
            if status in states:
                return status
            time.sleep(0.1)
        self.tally.note("stuck", f"volume {volume} is {status} after {WAIT} s")
        return "stuck"

    def attach(self, server, volume):
        self.s.call("POST", f"/compute/v2.1/servers/{server}/os-volume_attachments", {"volumeAttachment": {"volumeId": volume}})
        if self.rng.random() < 0.3:
            return  # deleted while it is being attached
        status = self.wait_volume(volume, {"in-use", "available", "error"})
        if status == "in-use" and self.rng.random() < 0.5:
            self.s.call("DELETE", f"/compute/v2.1/servers/{server}/os-volume_attachments/{volume}")

    def delete_server(self, server, name):
        """Until it is gone. An accepted delete must need no second one."""
        path = f"/compute/v2.1/servers/{server}"
        accepted = False
        until = time.monotonic() + WAIT
        while time.monotonic() < until:
            if not accepted:
                status, out = self.s.call("DELETE", path)
                if status == 404:
                    return
                accepted = status == 204
                if not accepted:
                    raise Failed(f"DELETE {path}: {status} {out}")
            s = self.show(server)
            if s is None:
                return
            if s["OS-EXT-STS:task_state"] != "deleting":
                self.tally.note("acked delete lost", f"{name} {server} is {s['status']}, task {s['OS-EXT-STS:task_state']}, fault {s.get('fault')}")
                accepted = False
            time.sleep(0.1)
        self.tally.note("stuck", f"server {server} is not gone {WAIT} s after its delete")

    def delete_volume(self, volume):
        path = f"/volume/v3/volumes/{volume}"
        if self.wait_volume(volume, {"available", "error"}) == "stuck":
            return
        accepted = False
        until = time.monotonic() + WAIT
        while time.monotonic() < until:
            if not accepted:
                status, out = self.s.call("DELETE", path)
                if status == 404:
                    return
                accepted = status == 202
                if not accepted:
                    self.tally.note("volume refuses its delete", f"{volume}: {status} {out}")
                    return
            status = self.wait_volume(volume, {"gone", "available", "error", "error_deleting"})
            if status == "gone":
                return
            self.tally.note("acked delete lost", f"volume {volume} is {status}")
            accepted = False
        self.tally.note("stuck", f"volume {volume} is not gone {WAIT} s after its delete")


class Killer(threading.Thread):
    def __init__(self, cloud, tally, stop, rng, span):
        super().__init__(daemon=True)
        self.cloud, self.tally, self.stop, self.rng, self.span = cloud, tally, stop, rng, span

    def run(self):
        while not self.stop.wait(self.rng.uniform(*self.span)):
            try:
                self.cloud.kill_and_start()
            except Failed as e:
                print(f"no restart: {e}; the log is {self.cloud.log.name}", flush=True)
                os._exit(3)
            self.tally.add("kills")


def guest_pid(server):
    """The QEMU process of a guest."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as f:
                words = f.read().split(b"\0")
        except OSError:
            continue
        if b"qemu-system" in words[0] and any(server.encode() in w for w in words):
            return int(pid)
    return None


def host_things(data):
    """Domains, processes, links and namespaces that a cloud on `data` may leave."""
    out = set()
    for words in (["ip", "-br", "link"], ["ip", "netns", "list"]):
        if shutil.which(words[0]):
            lines = subprocess.run(words, capture_output=True, text=True).stdout.splitlines()
            out |= {f"{words[-1]} {line.split()[0].split('@')[0]}" for line in lines if line.strip()}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as f:
                text = f.read().replace(b"\0", b" ").decode("utf-8", "replace")
        except OSError:
            continue
        if data in text and int(pid) != os.getpid():
            out.add(f"process {text.strip()[:160]}")
    return out


def transitional(admin):
    """Servers and volumes that are on their way somewhere."""
    servers = admin.get("/compute/v2.1/servers/detail?all_tenants=1&limit=1000")["servers"]
    volumes = admin.get("/volume/v3/volumes/detail?all_tenants=1&limit=1000")["volumes"]
    busy = [f"server {s['id']} {s['status']} task {s['OS-EXT-STS:task_state']}" for s in servers
            if s["OS-EXT-STS:task_state"] or s["status"] in ("BUILD", "DELETED")]
    busy += [f"volume {v['id']} {v['status']}" for v in volumes if v["status"] in TRANSITIONAL]
    return busy, servers, volumes


def left_over(admin, keep):
    """What exists that should not, seen through the APIs. `keep`: the long-lived server, if any."""
    out = []
    _, servers, volumes = transitional(admin)
    out += [f"server {s['id']} {s['name']} {s['status']}" for s in servers if s["id"] != keep]
    out += [f"volume {v['id']} {v['name']} {v['status']} {v['attachments']}" for v in volumes]
    ports = admin.get("/network/v2.0/ports")["ports"]
    out += [f"port {p['id']} of {p['device_id']}" for p in ports if p["device_owner"].startswith("compute:") and p["device_id"] != keep]
    out += [f"attachment {a['id']}" for a in admin.get("/volume/v3/attachments?all_tenants=1")["attachments"]]
    expected = {"VCPU": 1, "MEMORY_MB": 192, "DISK_GB": 1} if keep else {}
    for p in admin.get("/placement/resource_providers")["resource_providers"]:
        usages = admin.get(f"/placement/resource_providers/{p['uuid']}/usages")["usages"]
        out += [f"usage {k} is {v}" for k, v in usages.items() if v != expected.get(k, 0)]
    return out


class LongLived:
    """A guest that has to run through all kills (libvirt only)."""

    def __init__(self, scene, tally):
        self.client = Client("long", scene, tally, {}, random.Random(0))
        self.id, acked = self.client.s.create("/compute/v2.1/servers", "server", scene.server("long-lived", False), "/compute/v2.1/servers")
        if self.client.wait_server(self.id, "long-lived", acked) != "ACTIVE":
            raise Failed("the long-lived guest did not start")
        self.pid = guest_pid(self.id)
        if self.pid is None:
            raise Failed("the long-lived guest has no QEMU process")

    def check(self, tally):
        now = guest_pid(self.id)
        if now != self.pid:
            tally.note("leaked or lost", f"the long-lived guest ran as process {self.pid}, now {now}")
        s = self.client.show(self.id)
        if s is None or s["status"] != "ACTIVE":
            tally.note("leaked or lost", f"the long-lived server is {s and s['status']}")
        print(f"long-lived guest: process {self.pid} before, {now} after, {s and s['status']}")


def settle_and_check(cloud, tally, keep):
    admin = Session(cloud, "admin", tally)
    began = time.monotonic()
    while True:
        busy, _, _ = transitional(admin)
        left = left_over(admin, keep)
        if not busy and not left or time.monotonic() - began > SETTLED:
            break
        time.sleep(0.5)
    print(f"at rest after {time.monotonic() - began:.1f} s")
    for b in busy:
        tally.note("stuck", b)
    for thing in left:
        tally.note("leaked", thing)
    code, text = cloud.tool("audit")
    print(f"audit: {text}")
    if code != 0:
        for line in text.splitlines()[:-1]:
            tally.note("audit finding", line)


def report(cloud, tally, seconds, seed):
    c = tally.count
    median = statistics.median(cloud.restarts) if cloud.restarts else 0.0
    longest = max(cloud.restarts, default=0.0)
    print(f"""
seed {seed}, {seconds:.0f} s
cycles            {c['cycles']} ({c['cycles image']} from an image, {c['cycles attach']} with a volume, {c['cycles from volume']} from a volume; {c['deleted unseen']} deleted 0-3 s after the create)
kills             {c['kills']}, restart median {median * 1000:.0f} ms, longest {longest * 1000:.0f} ms
requests          {c['requests']} answered, {c['no answer']} without an answer, {c['found by name']} creates found by name
servers in ERROR  {c['server in ERROR']}
failed cycles     {c['failed cycle']}
stuck             {c['stuck']}
leaked            {c['leaked'] + c['leaked or lost']}
acked, then lost  {c['acked create lost'] + c['acked delete lost']}
audit findings    {c['audit finding']}""")
    print(f"answers other than 2xx, 404, 409: {sum(tally.answers.values())}")
    for key, n in tally.answers.most_common(20):
        print(f"  {n:4} {key}  {tally.samples[key]}")
    for line in tally.notes[:60]:
        print(f"! {line}")


def main():
    p = argparse.ArgumentParser()
    p.add_argument("caelum")
    p.add_argument("cycles", type=int)
    p.add_argument("mode", choices=["sim", "libvirt"])
    p.add_argument("--image")
    p.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    p.add_argument("--kill", default=None, help="MIN,MAX seconds between kills")
    a = p.parse_args()
    span = [float(x) for x in (a.kill or "2,10").split(",")]
    real = a.mode == "libvirt"
    work = tempfile.mkdtemp(prefix="caelum-crash-")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    before = host_things(work) if real else set()
    cloud, tally = Cloud(a.caelum, a.mode, os.path.join(work, "data"), port), Tally()
    began = time.monotonic()
    try:
        cloud.start()
        scene = Scene(cloud, tally, a.mode, a.image)
        long = LongLived(scene, tally) if real else None
        jobs = {"lock": threading.Lock(), "left": a.cycles, "total": a.cycles}
        stop = threading.Event()
        killer = Killer(cloud, tally, stop, random.Random(a.seed), span)
        # Emulated guests are heavy: three at once with the long-lived one.
        clients = [Client(i, scene, tally, jobs, random.Random(a.seed + 1 + i)) for i in range(2 if real else 8)]
        for t in [killer, *clients]:
            t.start()
        for t in clients:
            t.join()
        stop.set()
        killer.join()
        settle_and_check(cloud, tally, long.id if long else None)
        if long:
            long.check(tally)
            long.client.delete_server(long.id, "long-lived")
            settle_and_check(cloud, tally, None)
    finally:
        if cloud.process and cloud.process.poll() is None:
            print("down:", cloud.tool("down", "--wipe")[1])
            try:
                cloud.process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                cloud.kill()
    if real:
        for thing in sorted(host_things(work) - before):
            tally.note("leaked", f"on the host: {thing}")
    report(cloud, tally, time.monotonic() - began, a.seed)
    c = tally.count
    bad = ["failed cycle", "stuck", "leaked", "leaked or lost", "acked create lost", "acked delete lost", "audit finding",
           "volume refuses its delete"]
    if any(c[k] for k in bad) or c["cycles"] != a.cycles or any(k.startswith("5") and not k.startswith("503") for k in tally.answers):
        print(f"failed; the log is {cloud.log.name}")
        return 1
    shutil.rmtree(work, ignore_errors=True)
    print("nothing stuck, nothing leaked")
    return 0


if __name__ == "__main__":
    sys.exit(main())
