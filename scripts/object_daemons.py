"""Driver of scripts/object-daemons: each background daemon of object storage does its work on what the other Swift's
servers and daemons left, and the other way round, and both share one piece of work. A case ends with checks of the
devices, the databases and the listings of both proxies. Needs root; standard library only."""

import argparse
import glob
import hashlib
import json
import os
import pickle
import shutil
import sys
import time

from object_cell import CODED, GROWN, KINDS, Cell, Wrong, attributes, hash_of, node_call, other, partition_of, query
from object_model import ACCOUNT

WAYS = [*KINDS, "mixed"]
STATES = ["found", "created", "cleaved", "active", "shrinking", "sharding", "sharded", "shrunk"]


def must(ok, text):
    if not ok:
        raise Wrong(text)


def equal(found, expected, what):
    must(found == expected, f"{what}: {str(found)[:500]}, expected {str(expected)[:500]}")


def stamp(offset=0.0):
    return f"{time.time() + offset:016.5f}"


# Expirer


def queue_name(at, *path):
    return f"{at // 86400 * 86400 - int(hash_of(*path), 16) % 100:010d}"


def queued(cell, at, container, name):
    """The queue's entry of an object, or None."""
    entry = f"{at:010d}-{ACCOUNT}/{container}/{name}"
    rows = cell.rows(".expiring_objects", queue_name(at, ACCOUNT, container, name))
    found = [r for r in rows if r["name"] == entry] if isinstance(rows, list) else []
    return found[0] if found else None


def expiring(cell, writer, container, after):
    """Objects that go, and such as were to go but must not; the time of going and the names of each."""
    late = int(time.time()) + 7_000_000
    put = lambda name, headers: cell.put(writer, f"/{container}/{name}", name.encode() * 50, headers)  # noqa: E731
    cell.put(writer, f"/{container}")
    at = int(time.time()) + after
    gone, stay = [f"gone {i} ä" for i in range(8)], ["late", "moved", "cleared", "over"]
    for name in gone + stay[1:]:
        put(name, {"X-Delete-At": str(at)})
    put("late", {"X-Delete-At": str(late)})
    for name in gone + stay[1:]:
        entry = queued(cell, at, container, name)
        must(entry, f"{writer}: no entry in the queue for {container}/{name}")
        equal((entry["content_type"], entry["bytes"]), (f"text/plain;swift_expirer_bytes={len(name.encode()) * 50}", 0), f"{writer}: entry of {name}")
    cell.call(writer, "POST", f"/{container}/moved", None, {"X-Delete-At": str(late)}, expect=(202,))
    cell.call(writer, "POST", f"/{container}/cleared", None, {"X-Remove-Delete-At": "x"}, expect=(202,))
    put("over", {})
    # Entries that no longer hold are removed by the updater.
    cell.daemon(other(writer), "object-updater")
    for name in stay[1:]:
        must(not queued(cell, at, container, name), f"{writer}: entry of {name} is still there")
    must(queued(cell, late, container, "moved") and queued(cell, late, container, "late"), f"{writer}: no entry for late objects")
    must(not queued(cell, late, container, "cleared"), f"{writer}: entry for an object that stays")
    return at, gone, stay


def after_expiry(cell, container, at, gone, stay):
    cell.same_listing(container, stay, "after expiry")
    for name in gone:
        equal(cell.names(0, ACCOUNT, container, name), {d["device"]: [f"{at:010d}.00000.ts"] for d in cell.place("object", ACCOUNT, container, name)[1]}, name)
        must(not queued(cell, at, container, name), f"{name} has gone, its entry not")
        for kind in KINDS:
            cell.call(kind, "GET", f"/{container}/{name}", expect=(404,))
    for kind in KINDS:
        for name in stay:
            must(cell.call(kind, "GET", f"/{container}/{name}", expect=(200,))[2] == name.encode() * 50, f"{name} differs")


def expirer(cell):
    one = cell.nodes[:1]
    for writer in KINDS:
        container = f"expire-{writer}"
        at, gone, stay = expiring(cell, writer, container, 10)
        # The account learns of the queue's containers.
        cell.daemon("mixed", "container-updater")
        cell.daemon(other(writer), "object-expirer", nodes=one)
        if time.time() < at:
            must(queued(cell, at, container, gone[0]) and cell.files(0, ACCOUNT, container, gone[0]), "expired before its time")
        time.sleep(max(0, at + 1.1 - time.time()))
        cell.daemon(other(writer), "object-expirer", nodes=one)
        after_expiry(cell, container, at, gone, stay)
    # Two expirers of two programs share the queue: each does its part, neither the other's.
    for first in KINDS:
        container = f"expire-shared-{first}"
        at, gone, stay = expiring(cell, first, container, 8)
        cell.daemon("mixed", "container-updater")
        time.sleep(max(0, at + 1.1 - time.time()))
        cell.daemon(first, "object-expirer", nodes=one, conf="turn0")
        for name in gone:
            task = f"{queue_name(at, ACCOUNT, container, name)}".lstrip("0") + f"/{at:010d}-{ACCOUNT}/{container}/{name}"
            mine = int(hashlib.md5(task.encode()).hexdigest(), 16) % 2 == 0
            equal(bool(queued(cell, at, container, name)), not mine, f"entry of {name} after the first expirer ({first})")
        cell.daemon(other(first), "object-expirer", nodes=one, conf="turn1")
        after_expiry(cell, container, at, gone, stay)
    delayed(cell, one)
    return "20 + 16 objects expired, 16 kept"


def delayed(cell, one):
    """Entries whose deletion is delayed stay; such as were marked for deletion go at once, whatever their age."""
    for kind in KINDS:
        cell.put("caelum", "/later")
        at = int(time.time()) + 1
        cell.put(kind, "/later/waits", b"w", {"X-Delete-At": str(at + 1)})
        marked = [f"{kind}{i}" for i in range(5)]
        cell.put("swift", f"/marked-{kind}")
        for name in marked:
            cell.put(other(kind), f"/marked-{kind}/{name}", b"m")
        cell.tool("container-deleter", ACCOUNT, f"marked-{kind}")
        cell.daemon("mixed", "container-updater")
        time.sleep(max(0, at + 2.2 - time.time()))
        cell.daemon(kind, "object-expirer", nodes=one, conf="delayed")
        cell.same_listing(f"marked-{kind}", [], f"marked for deletion, expirer of {kind}")
        must(cell.files(0, ACCOUNT, "later", "waits"), f"{kind}: a delayed deletion came at once")
        must(queued(cell, at + 1, "later", "waits"), f"{kind}: the entry of a delayed deletion is gone")


# Reaper


def reaper(cell):
    done = 0
    for deleter in KINDS:
        for way in (other(deleter), "mixed"):
            account = f"AUTH_reap_{deleter}_{way}"
            client = cell.client(deleter, "admin:admin", "admin")
            client.base = f"/v1/{account}"
            objects = []
            for c, policy in (("gold", 0), ("silver", 1), ("coded", CODED), ("empty ü", 0)):
                must(client.call("PUT", f"/{c}", None, {"X-Storage-Policy": ["gold", "silver", "coded"][policy]})[0] == 201, f"{c} not made")
                for i in range(5 if c != "empty ü" else 0):
                    must(client.call("PUT", f"/{c}/o {i}", b"x" * 5000)[0] == 201, "not written")
                    objects.append((policy, c, f"o {i}"))
            cell.daemon(other(deleter), "container-updater")
            status, _, body = client.call("DELETE", "")
            equal((status, body), (204, b""), f"deleting the account by the proxy of {deleter}")
            must(client.call("GET", "")[0] in (404, 410), "a deleted account answers")
            for _ in range(2):
                cell.daemon(way, "account-reaper")
                cell.daemon(other(deleter), "container-updater")
                cell.daemon(way if way in KINDS else deleter, "account-replicator")
            for policy, c, o in objects:
                left = [f for fs in cell.names(policy, account, c, o).values() for f in fs if not f.endswith(".ts")]
                must(not left, f"deleted by {deleter}, reaped by {way}: {c}/{o} has {left}")
            for c in ("gold", "silver", "coded", "empty ü"):
                for dev, (file, *_) in cell.databases("container", account, c).items():
                    info = query(file, "SELECT delete_timestamp > put_timestamp FROM container_info")
                    must(info == [(1,)], f"reaped by {way}: container {c} lives on {dev}")
            for dev, (file, *_) in cell.databases("account", account).items():
                equal(query(file, "SELECT container_count, status FROM account_stat"), [(0, "DELETED")], f"reaped by {way}: account on {dev}")
            done += len(objects)
    return f"4 accounts, {done} objects"


# Reconciler


def split(cell, writer, container, wrong, right, deliverer):
    """A container that one node made under another policy than the others, objects written meanwhile. Their names and bytes."""
    part, devs = cell.place("container", ACCOUNT, container)
    older, newer = stamp(-20), stamp(-10)
    lone = devs[0]
    make = lambda dev, policy, at: node_call(  # noqa: E731
        dev, "PUT", f"/{part}/{ACCOUNT}/{container}", {"X-Timestamp": at, "X-Backend-Storage-Policy-Index": str(policy), "X-Backend-Storage-Policy-Default": "0"}
    )[0]
    equal(make(lone, wrong, newer), 201, "the lone container")
    cell.flush()
    bodies = {f"o{i} é": os.urandom(3000 + 70000 * (i % 2)) for i in range(6)}
    headers = {"X-Object-Meta-Colour": "grün", "Content-Type": "text/x-thing; a=b", "X-Robots-Tag": "noindex", "Cache-Control": "no-store", "Content-Language": "de"}
    for name, body in bodies.items():
        cell.put(writer, f"/{container}/{name}", body, {k: v.encode() for k, v in headers.items()})
        must(cell.files(wrong, ACCOUNT, container, name), f"{name} is not under the policy {wrong}")
    cell.put(writer, f"/{container}/part/1", b"1" * 1000)
    cell.put(writer, f"/{container}/large?multipart-manifest=put", json.dumps([{"path": f"/{container}/part/1"}] * 3))
    cell.call(writer, "POST", f"/{container}/o1 é", None, {"X-Object-Meta-Posted": "yes"}, expect=(202,))
    # The others have it under the right one, with an object that is then deleted under the wrong one.
    for dev in devs[1:]:
        equal(make(dev, right, older), 201, "the others' container")
    opart, odevs = cell.place("object" + (f"-{right}" if right else ""), ACCOUNT, container, "deleted")
    for dev, cdev in zip(odevs, devs) if right != CODED else ():
        h = {"X-Timestamp": stamp(-9), "X-Backend-Storage-Policy-Index": str(right), "Content-Type": "a/b", "Content-Length": "1"}
        h |= {"X-Container-Host": f"{cdev['ip']}:{cdev['port']}", "X-Container-Partition": str(part), "X-Container-Device": cdev["device"]}
        equal(node_call(dev, "PUT", f"/{opart}/{ACCOUNT}/{container}/deleted", h, b"d")[0], 201, "the object to delete")
    opart, odevs = cell.place(f"object-{wrong}" if wrong else "object", ACCOUNT, container, "deleted")
    at = stamp()
    for dev, cdev in zip(odevs, devs):
        h = {"X-Timestamp": at, "X-Backend-Storage-Policy-Index": str(wrong)}
        h |= {"X-Container-Host": f"{cdev['ip']}:{cdev['port']}", "X-Container-Partition": str(part), "X-Container-Device": cdev["device"]}
        equal(node_call(dev, "DELETE", f"/{opart}/{ACCOUNT}/{container}/deleted", h)[0], 404, "a deletion of what is not there")
    cell.daemon(deliverer, "object-updater")
    return bodies | {"part/1": b"1" * 1000, "large": b"1" * 3000}


def reconciler(cell):
    moved = 0
    # Who finds it out and queues, who moves: each way round, and both kinds at the queue.
    plans = [("caelum", "swift", 1, 0), ("swift", "caelum", 1, 0), ("swift", "caelum", CODED, 0), ("caelum", "swift", 0, CODED)]
    for finder, mover, wrong, right in plans:
        container = f"split-{finder}-{wrong}-{right}"
        bodies = split(cell, finder, container, wrong, right, mover)
        for _ in range(2):
            cell.daemon(finder, "container-replicator")
        hour = str(int(time.time()) // 3600 * 3600)
        entries = [r for r in cell.rows(".misplaced_objects", hour) if f"/{container}/" in r["name"]]
        names = {*bodies, "deleted"}
        equal({e["name"] for e in entries}, {f"{wrong}:/{ACCOUNT}/{container}/{n}" for n in names}, f"entries queued by {finder}")
        for e in entries:
            equal(e["content_type"], "application/x-delete" if e["name"].endswith("/deleted") else "application/x-put", e["name"])
        cell.daemon(mover, "container-reconciler", nodes=cell.nodes[:1], conf=f"{cell.swift_dir}/container-reconciler.conf")
        left = [r["name"] for r in cell.rows(".misplaced_objects", hour) if f"/{container}/" in r["name"]]
        must(not left, f"queued by {finder}, {mover} leaves {left}")
        reconciled(cell, container, bodies, wrong, right, f"queued by {finder}, moved by {mover}")
        moved += len(names)
    return f"{len(plans)} containers, {moved} entries"


def reconciled(cell, container, bodies, wrong, right, what):
    rows = cell.same_listing(container, bodies, what)
    for row in rows:
        must(row["hash"], f"{what}: {row}")
    for name, body in bodies.items():
        found = cell.names(right, ACCOUNT, container, name)
        must(len(found) == 3 and all(any(f.endswith(".data") for f in fs) for fs in found.values()), f"{what}: {name} is {found}")
        must(all("_0000000000000003" in f for fs in found.values() for f in fs if f.endswith(".data")), f"{what}: time of {name}: {found}")
        # What was posted is newer than the tombstone and stays with it until the reclaim age.
        left = [f for fs in cell.names(wrong, ACCOUNT, container, name).values() for f in fs if not f.endswith((".ts", ".meta"))]
        must(not left, f"{what}: {name} left {left} behind")
        answers = [cell.call(k, "GET", f"/{container}/{name}") for k in KINDS]
        for status, headers, got in answers:
            must(status == 200 and got == body, f"{what}: {name}: {status}, {len(got)} of {len(body)} bytes")
            if name.startswith("o"):
                expected = {"Cache-Control": "no-store", "Content-Language": "de", "Content-Type": "text/x-thing; a=b", "X-Robots-Tag": "noindex"}
                expected |= {"X-Object-Meta-Posted": "yes"} if name == "o1 é" else {}
                expected = {k: v for k, v in expected.items() if name != "o1 é" or k.startswith(("X-Object", "Content-Type"))}
                equal({k: headers.get(k) for k in expected}, expected, f"{what}: headers of {name}")
    left = [f for fs in cell.names(right, ACCOUNT, container, "deleted").values() for f in fs if not f.endswith(".ts")]
    must(not left, f"{what}: the deleted object is there: {left}")


# Sharder


def fill(cell, container, names, at):
    """Rows, put into each of a container's databases through its server."""
    part, devs = cell.place("container", ACCOUNT, container)
    rows = [
        {"name": n, "created_at": at, "size": 5, "content_type": "a/b", "etag": "e" * 32, "deleted": 0, "storage_policy_index": 0, "ctype_timestamp": None, "meta_timestamp": None}
        for n in names
    ]
    for dev in devs:
        headers = {"X-Timestamp": at, "X-Backend-Storage-Policy-Index": "0", "Content-Type": "application/json"}
        equal(node_call(dev, "UPDATE", f"/{part}/{ACCOUNT}/{container}", headers, json.dumps(rows))[0], 202, f"rows for {dev['device']}")


def shard_states(cell, container):
    """(database state, ranges by state) of the container's root on each node."""
    part, devs = cell.place("container", ACCOUNT, container)
    out = {}
    for dev in devs:
        headers = {"X-Backend-Record-Type": "shard", "X-Backend-Override-Deleted": "true"}
        status, h, body = node_call(dev, "GET", f"/{part}/{ACCOUNT}/{container}?format=json", headers)
        must(status == 200, f"shard ranges of {container}: {status}")
        ranges = json.loads(body)
        for r in ranges:
            r["state"] = STATES[r["state"] // 10 - 1]
        out[dev["device"]] = (h.get("X-Backend-Sharding-State"), ranges)
    return out


def sharding_on(cell, container):
    part, devs = cell.place("container", ACCOUNT, container)
    for dev in devs:
        headers = {"X-Timestamp": stamp(), "X-Container-Sysmeta-Sharding": "True"}
        equal(node_call(dev, "POST", f"/{part}/{ACCOUNT}/{container}", headers)[0], 204, "sharding switched on")


def sharded(cell, container):
    views = shard_states(cell, container)
    return all(state == "sharded" and ranges and all(r["state"] == "active" for r in ranges) for state, ranges in views.values())


def check_shards(cell, container, names, what):
    """Every replica of every shard holds the rows of its range and no others."""
    views = shard_states(cell, container)
    keys = {d: [(r["name"], r["lower"], r["upper"], r["state"]) for r in ranges] for d, (_, ranges) in views.items()}
    must(len({str(k) for k in keys.values()}) == 1, f"{what}: nodes know different ranges: {str(keys)[:600]}")
    at = ""
    for name, lower, upper, _ in next(iter(keys.values())):
        equal(lower, at, f"{what}: a gap or overlap before {name}")
        at = upper
        rows = [r["name"] for r in cell.rows(*name.split("/", 1))]
        equal(rows, sorted(n for n in names if n > lower and (not upper or n <= upper)), f"{what}: rows of {name}")
    equal(at, "", f"{what}: the last range's end")
    return len(next(iter(keys.values())))


def passes(cell, container, names, plan, until, what, conf=None, limit=14):
    """Passes of sharder and replicator by turns until `until`; both proxies list all names after each. Objects come and go
    meanwhile. The number of passes."""
    history, stable, moving = [], set(names), set()
    for i in range(limit):
        kind = plan[i % len(plan)]
        cell.daemon(kind, "container-sharder", conf=conf)
        # A root that only heard of some cleaved ranges, from the shards themselves, lists no others: so do both Swifts.
        cell.daemon("mixed", "container-replicator")
        views = shard_states(cell, container)
        # The other Swift's proxy knows one of two overlapping ranges, and shards overlap while one shrinks into the other.
        overlap = any(r["state"] == "shrinking" for _, ranges in views.values() for r in ranges)
        cell.flush()
        for proxy in KINDS[:1] if overlap else KINDS:
            found = {r["name"] for r in cell.listing(proxy, container)}
            # What came lately may lie in a shard that is not cleaved, or wait for an updater.
            lack, more = sorted(stable - found), sorted(found - stable - moving)
            must(not lack and not more, f"{what}, after pass {i + 1} ({kind}), {history[-1:]}: proxy of {proxy} lacks {lack[:3]} ({len(lack)}), has {more[:3]} ({len(more)}) besides")
        history.append(" ".join(f"{s[:8]}:{','.join(r['state'][:3] for r in ranges)}" for s, ranges in views.values()))
        if until(views):
            return i + 1
        new = f"n{what[:2]}{i:02d}"
        cell.put(KINDS[i % 2], f"/{container}/{new}", b"12345")
        names.add(new)
        moving.add(new)
        if i > 1:
            old = f"n{what[:2]}{i - 2:02d}"
            cell.call(KINDS[i % 2], "DELETE", f"/{container}/{old}", expect=(204,))
            names.discard(old)
    raise Wrong(f"{what}: not done after {limit} passes: {' | '.join(history)[-1500:]}")


def in_shards(views):
    return all(state == "sharded" and ranges and all(r["state"] == "active" for r in ranges) for state, ranges in views.values())


def in_root(views):
    return all(state in ("collapsed", "unsharded") and not ranges for state, ranges in views.values())


def sharder(cell):
    out = []
    for plan in (["swift", "caelum"], ["mixed"]):
        container = "shard-" + "-".join(plan)
        what = f"sharding by {' and '.join(plan)}"
        cell.put("caelum", f"/{container}")
        names = {f"{c}{i:03d}" for c in "aämz" for i in range(300)}
        fill(cell, container, sorted(names), stamp())
        sharding_on(cell, container)
        n = passes(cell, container, names, plan, in_shards, what)
        settle(cell, plan, 2)
        cell.same_listing(container, names, what)
        shards = check_shards(cell, container, names, what)
        must(shards >= 4, f"{what}: {shards} shards")
        tools(cell, container, len(names), what)
        what = f"merging by {' and '.join(plan)}"
        m = passes(cell, container, names, plan, in_root, what, "shrink", 30)
        settle(cell, plan, 2, "shrink")
        cell.same_listing(container, names, what)
        equal([r["name"] for r in cell.rows(ACCOUNT, container)], sorted(names), f"{what}: rows of the root")
        out.append(f"{'+'.join(plan)}: {shards} shards in {n} passes, merged in {m}")
    return "; ".join(out)


def settle(cell, plan, rounds, conf=None):
    cell.daemon("mixed", "object-updater")
    for i in range(rounds):
        cell.daemon(plan[i % len(plan)], "container-sharder", conf=conf)
        cell.daemon("mixed", "container-replicator")


def tools(cell, container, rows, what):
    """The other Swift's tool reads the ranges of each root, and finds nothing to mend."""
    for dev, files in cell.databases("container", ACCOUNT, container).items():
        must(len(files) == 1, f"{what}: {dev} has {files}")
        text = cell.tool("manage-shard-ranges", files[0], "show")
        equal(sum(r["object_count"] for r in json.loads(text[text.index("[") :])), rows, f"{what}: objects by the tool on {dev}")
        text = cell.tool("manage-shard-ranges", files[0], "repair", "--dry-run", "--min-shard-age", "0")
        must("Found no overlap" in text or "no overlapping" in text.lower() or "Repairs" not in text, f"{what}: repair on {dev}: {text[-300:]}")


# Relinker


def relinker(cell):
    container, builder = "relinked", f"{cell.swift_dir}/object-{GROWN}.builder"
    ring = lambda *args: cell.ring(builder, *args)  # noqa: E731
    cell.put("caelum", f"/{container}", None, {"X-Storage-Policy": "grown"})
    bodies = {f"o{i}": os.urandom(500 + i) for i in range(60)}

    def write(kind, names):
        for n in names:
            cell.put(kind, f"/{container}/{n}", bodies[n], {"X-Object-Meta-N": n})

    names = list(bodies)
    write("caelum", names[:30])
    write("swift", names[30:50])
    for i, n in enumerate(names[:10]):
        cell.call(KINDS[i % 2], "POST", f"/{container}/{n}", None, {"X-Object-Meta-Posted": "yes"}, expect=(202,))
    for i, n in enumerate(names[40:46]):
        cell.call(KINDS[i % 2], "DELETE", f"/{container}/{n}", expect=(204,))
    dead = names[40:46]
    ring("prepare_increase_partition_power")
    ring("write_ring")
    cell.new_rings()
    write("swift", names[50:55])
    before = {n: cell.names(GROWN, ACCOUNT, container, n) for n in names[:55]}
    steps(cell, "relink", "relink")
    for n in names[:55]:
        linked(cell, container, n, (4, 5), before)
    ring("increase_partition_power")
    ring("write_ring")
    cell.new_rings()
    write("caelum", names[55:])
    for i, n in enumerate(names):
        if n not in dead:
            must(cell.call(KINDS[i % 2], "GET", f"/{container}/{n}", expect=(200,))[2] == bodies[n], f"{n} after the increase")
    steps(cell, "cleanup", "cleanup")
    ring("finish_increase_partition_power")
    ring("write_ring")
    cell.new_rings()
    for n in names:
        linked(cell, container, n, (5,), before)
    for n in names:
        for kind in KINDS:
            status, headers, body = cell.call(kind, "GET", f"/{container}/{n}")
            expected = (404, None) if n in dead else (200, n if n not in names[:10] else None)
            equal((status, headers.get("X-Object-Meta-N")), expected, f"{n} in the end through {kind}")
            must(n in dead or body == bodies[n], f"{n} differs in the end")
    return f"{len(names)} objects, {sum(len(f) for fs in before.values() for f in fs.values())} files"


def linked(cell, container, name, powers, before):
    """An object's files are in these partitions and no others, the same inodes in each."""
    h = hash_of(ACCOUNT, container, name)
    wanted = sorted(partition_of(h, p) for p in powers)
    for dev, files in cell.files(GROWN, ACCOUNT, container, name).items():
        parts = {}
        for f in files:
            parts.setdefault(int(f.split("/")[-4]), {})[os.path.basename(f)] = os.stat(f).st_ino
        equal(sorted(parts), sorted(set(wanted)), f"partitions of {name} on {dev}")
        must(len({str(sorted(p.items())) for p in parts.values()}) == 1, f"{name} on {dev} is not the same in each: {parts}")
        if name in before:
            equal(sorted(next(iter(parts.values()))), sorted(set(before[name][dev])), f"files of {name} on {dev}")


def steps(cell, action, what):
    """Half of a step by one program, the rest by the other, who takes up the state that the first left; and again by the first."""
    for node in cell.nodes:
        first = KINDS[node.n % 2] if node.n < 3 else KINDS[(node.n + 1) % 2]
        state = f"{node.device()}/relink.objects-{GROWN}.json"
        parts = sorted(int(p) for p in os.listdir(f"{node.device()}/objects-{GROWN}") if p.isdigit())
        some = [p for p in parts if p < (16 if what == "relink" else 32)][::2][:6]
        relink(cell, first, node, action, some)
        saved = json.load(open(state))
        done = sorted(int(p) for p, d in saved["state"].items() if d)
        must(set(done) >= set(some) & {int(p) for p in saved["state"]} and done, f"{what} by {first} on node {node.n}: done {done} of {some}, {saved}")
        relink(cell, other(first), node, action, [])
        after = json.load(open(state))
        equal({k: after[k] for k in ("part_power", "next_part_power")}, {k: saved[k] for k in ("part_power", "next_part_power")}, "state")
        must(set(after["state"]) >= set(saved["state"]) and all(after["state"].values()), f"{what}: not all done by {other(first)}: {after}")
        # A last run finds nothing to do, whoever makes it; the clean-up may look at partitions that are new.
        relink(cell, first, node, action, [])
        last = json.load(open(state))
        must(last["state"].items() >= after["state"].items() and all(last["state"].values()), f"{what}: a last run by {first} leaves {last}, after {after}")


def relink(cell, kind, node, action, parts):
    if kind == "swift":
        options = [action, "--policy", str(GROWN), *[o for p in parts for o in ("--partition", str(p))]]
        cell.daemon(kind, "object-relinker", *options, nodes=[node])
    else:
        options = ["--policies", str(GROWN), *(["--partitions", ",".join(map(str, parts))] if parts else [])]
        cell.daemon(kind, "object-relink" + ("-cleanup" if action == "cleanup" else ""), *options, nodes=[node])


# Reconstructor


def fragments(cell, container, name):
    """Of each device: (file name, bytes, metadata) of an object's fragments."""
    out = {}
    for dev, files in cell.files(CODED, ACCOUNT, container, name).items():
        for f in files:
            if f.endswith(".data"):
                out.setdefault(dev, []).append((os.path.basename(f), open(f, "rb").read(), frag_meta(f)))
    return out


def frag_meta(file):
    m = pickle.loads(attributes(file), encoding="utf-8")
    return {(k.decode() if isinstance(k, bytes) else k): (v.decode() if isinstance(v, bytes) else v) for k, v in m.items()}


def reconstructor(cell):
    lost = moved = 0
    for way in WAYS:
        container = f"coded-{way}"
        cell.put("swift", f"/{container}", None, {"X-Storage-Policy": "coded"})
        bodies = {f"o{i}": os.urandom(n) for i, n in enumerate([0, 1, 65536, 65537, 200_000, 500_001, 3])}
        for i, (n, body) in enumerate(bodies.items()):
            cell.put(KINDS[i % 2], f"/{container}/{n}", body, {"X-Object-Meta-Colour": "grün".encode()})
        cell.call("swift", "POST", f"/{container}/o1", None, {"X-Object-Meta-Posted": "yes"}, expect=(202,))
        before = {n: fragments(cell, container, n) for n in bodies}
        metas = {n: cell.names(CODED, ACCOUNT, container, n) for n in bodies}
        # A device of each kind of server loses what it has.
        for node in (cell.nodes[0], cell.nodes[1]):
            shutil.rmtree(f"{node.device()}/objects-{CODED}", ignore_errors=True)
            gone = sum(f"d{node.n}" in b for b in before.values())
            for _ in range(2):
                cell.daemon(way, "object-reconstructor")
            for n in bodies:
                equal(frag_names(fragments(cell, container, n)), frag_names(before[n]), f"{way}: fragments of {n} after node {node.n} lost its own")
                must(fragments(cell, container, n) == before[n], f"{way}: {n} was rebuilt differently: {frag_diff(fragments(cell, container, n), before[n])}")
                equal(cell.names(CODED, ACCOUNT, container, n), metas[n], f"{way}: files of {n}")
            lost += gone
        moved += revert(cell, way, container, bodies, before, metas)
        for n, body in bodies.items():
            for kind in KINDS:
                must(cell.call(kind, "GET", f"/{container}/{n}", expect=(200,))[2] == body, f"{way}: {n} through {kind}")
    return f"{lost} fragments rebuilt, {moved} given back"


def frag_names(frags):
    return {d: [f[0] for f in fs] for d, fs in frags.items()}


def frag_diff(a, b):
    return [(d, [(x[0], len(x[1]), x[2]) for x in a.get(d, [])], [(x[0], len(x[1]), x[2]) for x in b.get(d, [])]) for d in {*a, *b} if a.get(d) != b.get(d)][:1]


def revert(cell, way, container, bodies, before, metas):
    """Each object's fragment of one primary lies on the node that is none: it goes back and nothing stays."""
    moved = 0
    for n in bodies:
        part, devs = cell.place(f"object-{CODED}", ACCOUNT, container, n)
        (handoff,) = [x for x in cell.nodes if x.ip not in {d["ip"] for d in devs}]
        source = cell.node_of(devs[len(n) % 2 + moved % 2])
        h = hash_of(ACCOUNT, container, n)
        old, new = (f"{x.device()}/objects-{CODED}/{part}/{h[-3:]}/{h}" for x in (source, handoff))
        os.makedirs(os.path.dirname(new), exist_ok=True)
        shutil.move(old, new)
        for x in (source, handoff):
            with open(f"{x.device()}/objects-{CODED}/{part}/hashes.invalid", "a") as f:
                f.write(h[-3:] + "\n")
        moved += 1
    for _ in range(2):
        cell.daemon(way, "object-reconstructor")
    for n in bodies:
        must(fragments(cell, container, n) == before[n], f"{way}: {n} came back differently: {frag_diff(fragments(cell, container, n), before[n])}")
        equal(cell.names(CODED, ACCOUNT, container, n), metas[n], f"{way}: files of {n}")
    return moved


# Container synchronization


def synced(cell, names, what):
    a, b = (cell.listing("caelum", c) for c in names)
    short = lambda rows: [(r["name"], r["hash"], r["bytes"], r["content_type"], r["last_modified"]) for r in rows]  # noqa: E731
    equal(short(a), short(b), what)
    return [r["name"] for r in a]


def sync(cell):
    names = {"caelum": "sync-here", "swift": "sync-there"}
    # Each container sends to the other through the other's proxy.
    for kind, container in names.items():
        headers = {"X-Container-Sync-To": f"//realm/{other(kind)}/{ACCOUNT}/{names[other(kind)]}", "X-Container-Sync-Key": "key"}
        cell.put(kind, f"/{container}", None, headers)
    headers = {"X-Object-Meta-Colour": "grün".encode(), "Content-Type": "text/x-thing", "X-Robots-Tag": "noindex", "Content-Encoding": "gzip", "X-Delete-At": str(int(time.time()) + 7_000_000)}
    expected = set()
    for round_, way in enumerate(["caelum", "swift", "mixed"]):
        for kind, container in names.items():
            for i in range(4):
                cell.put(kind, f"/{container}/{kind}{round_} {i} ü", os.urandom(2000 + i), headers)
                expected.add(f"{kind}{round_} {i} ü")
            if round_:
                cell.call(other(kind), "DELETE", f"/{container}/{other(kind)}{round_ - 1} 0 ü", expect=(204,))
                cell.call(other(kind), "POST", f"/{container}/{kind}{round_ - 1} 1 ü", None, {"X-Object-Meta-Posted": "yes", "Content-Type": "a/posted"}, expect=(202,))
                expected.discard(f"{other(kind)}{round_ - 1} 0 ü")
        for _ in range(2):
            cell.daemon(way, "container-sync")
        cell.flush()
        equal(set(synced(cell, names.values(), f"after synchronization by {way}")), expected, f"after {way}")
        for n in sorted(expected):
            answers = [cell.call(k, "GET", f"/{c}/{n}", expect=(200,)) for k, c in names.items()]
            kept = [(a[2], {k.lower(): v for k, v in a[1].items() if k.lower() not in ("date", "x-trans-id", "x-openstack-request-id", "connection", "content-length")}) for a in answers]
            must(kept[0][0] == kept[1][0], f"{n} after {way}: other bytes")
            equal(kept[0][1], kept[1][1], f"headers of {n} after {way}")
    # Nothing is left to do for the other program.
    said = cell.daemon("caelum", "container-sync")
    must(all("puts: 0" in t and "failures: 0" in t for t in said.values()), f"ours still had something to do: {said}")
    return f"{len(expected)} objects in each"


# Updaters


def updater(cell):
    updates = 0
    for deliverer in WAYS:
        container = f"late-{deliverer}"
        cell.put("caelum", f"/{container}")
        coded = f"late-coded-{deliverer}"
        cell.put("caelum", f"/{coded}", None, {"X-Storage-Policy": "coded"})
        cell.daemon("mixed", "container-updater")
        for c in (container, coded):
            for kind in KINDS:
                cell.call(kind, "HEAD", f"/{c}", expect=(204,))
                cell.put(kind, f"/{c}/old {kind}", b"o")
        part, devs = cell.place("container", ACCOUNT, container)
        away = [cell.node_of(d) for d in devs[1:]]
        for node in away:
            node.stop_server("container-server")
        at = int(time.time()) + 7_000_000
        expected = {container: set(), coded: set()}
        for c in (container, coded):
            for i in range(6):
                cell.put(KINDS[i % 2], f"/{c}/n{i} ä", b"n" * 100, {"X-Delete-At": str(at)})
                expected[c].add(f"n{i} ä")
            for kind in KINDS:
                cell.call(kind, "DELETE", f"/{c}/old {kind}", expect=(204, 404))
            cell.call("caelum", "POST", f"/{c}/n1 ä", None, {"Content-Type": "posted/type", "X-Delete-At": str(at)}, expect=(202,))
        waiting = pending(cell)
        must(waiting > 10, f"only {waiting} updates wait")
        for node in away:
            node.spawn("container-server", node.command("container-server"))
            node.wait()
        for node in cell.nodes:
            cell.daemon(other(node.kind) if deliverer == "mixed" else deliverer, "object-updater", nodes=[node])
        updates += waiting
        left = pending(cell)
        must(not left, f"{deliverer} leaves {left} of {waiting} updates")
        for c in (container, coded):
            rows = cell.rows(ACCOUNT, c)
            equal({r["name"] for r in rows}, expected[c], f"rows of {c} delivered by {deliverer}")
            equal({r["content_type"] for r in rows if r["name"] == "n1 ä"}, {"posted/type"}, f"type of n1 in {c}")
            for n in expected[c]:
                must(queued(cell, at, c, n), f"{c}/{n} is not in the queue of expiring objects, delivered by {deliverer}")
        accounts(cell, deliverer, {container: len(expected[container]), coded: len(expected[coded])})
    return f"{updates} updates"


def pending(cell):
    return sum(len(glob.glob(f"{n.device()}/async_pending*/*/*")) for n in cell.nodes)


def accounts(cell, way, counts):
    """The account's rows, as container updaters of `way` report them."""
    cell.daemon(way, "container-updater")
    part, devs = cell.place("account", ACCOUNT)
    for dev in devs:
        _, _, body = node_call(dev, "GET", f"/{part}/{ACCOUNT}?format=json&limit=10000")
        found = {r["name"]: r["count"] for r in json.loads(body)}
        equal({c: found.get(c) for c in counts}, counts, f"account's rows on {dev['device']}, reported by {way}")


# Auditors


def auditor(cell):
    hurt = 0
    for way in KINDS:
        container = f"rot-{way}"
        for c, policy in ((container, "gold"), (f"{container}-coded", "coded")):
            cell.put("caelum", f"/{c}", None, {"X-Storage-Policy": policy})
            for i in range(6):
                cell.put(KINDS[i % 2], f"/{c}/o{i}", os.urandom(70_000))
        wounds = [flip, cut, strip, scramble, flip, cut]
        for c, policy in ((container, 0), (f"{container}-coded", CODED)):
            for i, wound in enumerate(wounds):
                files = cell.files(policy, ACCOUNT, c, f"o{i}")
                dev = sorted(files)[i % len(files)]
                wound(next(f for f in files[dev] if f.endswith(".data")))
                hurt += 1
        cell.daemon(way, "object-auditor")
        for c, policy in ((container, 0), (f"{container}-coded", CODED)):
            for i in range(len(wounds)):
                h = hash_of(ACCOUNT, c, f"o{i}")
                top = "objects" + (f"-{policy}" if policy else "")
                found = [n.n for n in cell.nodes if glob.glob(f"{n.device()}/quarantined/{top}/{h}*")]
                equal(len(found), 1, f"{way}: places where {c}/o{i} ({wounds[i].__name__}) is in quarantine")
                equal(len(cell.files(policy, ACCOUNT, c, f"o{i}")), 2, f"{way}: good copies of {c}/o{i}")
        for kind in ("container", "account"):
            hurt += database_rot(cell, way, kind)
    return f"{hurt} hurt, all in quarantine"


def flip(file):
    with open(file, "r+b") as f:
        f.seek(1000)
        byte = f.read(1)
        f.seek(1000)
        f.write(bytes([byte[0] ^ 1]))


def cut(file):
    os.truncate(file, os.path.getsize(file) - 1)


def strip(file):
    os.removexattr(file, "user.swift.metadata")


def scramble(file):
    os.setxattr(file, "user.swift.metadata", attributes(file)[:40])


def database_rot(cell, way, kind):
    hurt = 0
    for node in cell.nodes:
        files = sorted(glob.glob(f"{node.device()}/{kind}s/*/*/*/*.db"))
        name = f"AUTH_rot_{way}_{node.n}"
        path = (name,) if kind == "account" else (name, "c")
        part, devs = cell.place(kind, *path)
        dev = next((d for d in devs if d["ip"] == node.ip), None)
        if not dev or not files and kind == "account":
            continue
        status = node_call(dev, "PUT", f"/{part}/" + "/".join(path), {"X-Timestamp": stamp(), "X-Backend-Storage-Policy-Index": "0"})[0]
        equal(status, 201, f"a {kind} on {dev['device']}")
        (file,) = cell.databases(kind, *path)[dev["device"]]
        with open(file, "r+b") as f:
            f.seek(0)
            f.write(b"\xff" * 8192)
        hurt += 1
        cell.daemon(way, f"{kind}-auditor", nodes=[node])
        must(not os.path.exists(file), f"{way}: the damaged {kind} on {dev['device']} is where it was")
        h = hash_of(*path)
        must(glob.glob(f"{node.device()}/quarantined/{kind}s/{h}*/*.db"), f"{way}: the damaged {kind} is not in quarantine")
    return hurt


CASES = {
    "sharder": sharder,
    "reconciler": reconciler,
    "expirer": expirer,
    "relinker": relinker,
    "reconstructor": reconstructor,
    "reaper": reaper,
    "sync": sync,
    "updater": updater,
    "auditor": auditor,
}


def arguments():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("caelum")
    p.add_argument("cases", nargs="*", metavar="case", help=f"of {', '.join(CASES)}; all when none is named")
    p.add_argument("--swift-bin", required=True, help="directory with the programs of the other Swift")
    p.add_argument("--dir", default="/tmp/object-daemons")
    p.add_argument("--keep", action="store_true", help="leave logs and configuration")
    args = p.parse_intermixed_args()
    unknown = set(args.cases) - set(CASES)
    if unknown:
        p.error(f"no such case: {', '.join(sorted(unknown))}")
    return args


def run(cell, names, keep):
    """Runs cases one after another; how many found problems."""
    bad = 0
    for name in names:
        started, cell.notes = time.time(), []
        # Connections that were idle may be closed by now.
        cell.flush()
        try:
            text = "ok       " + CASES[name](cell)
        except Wrong as e:
            bad += 1
            text = f"PROBLEM  {e}"
        except Exception as e:  # noqa: BLE001, the other cases are still to run
            bad += 1
            where = e.__traceback__
            while where.tb_next:
                where = where.tb_next
            text = f"PROBLEM  {type(e).__name__} {e} in line {where.tb_lineno} of {os.path.basename(where.tb_frame.f_code.co_filename)}"
        print(f"{name:14} {time.time() - started:4.0f} s  {text}", flush=True)
        if "PROBLEM" in text:
            for note in cell.notes[-8:]:
                print(f"    {note}", flush=True)
            if keep:
                # The devices end with this process.
                for node in cell.nodes:
                    shutil.copytree(node.disk, f"{cell.dir}/after-{name}/n{node.n}", dirs_exist_ok=True)
    return bad


def main():
    args = arguments()
    shutil.rmtree(args.dir, ignore_errors=True)
    os.makedirs(args.dir)
    cell, bad, started = Cell(args), 1, time.time()
    try:
        cell.setup()
        cell.start()
        bad = run(cell, args.cases or CASES, args.keep)
        print(f"{'problems' if bad else 'all':14} {time.time() - started:4.0f} s  {bad}", flush=True)
    finally:
        cell.teardown()
        if not args.keep and not bad:
            shutil.rmtree(args.dir, ignore_errors=True)
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
