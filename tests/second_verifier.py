"""A second verifier, written from docs/design.md: `second_verifier.py REPOSITORY [BRANCH PROTOCOL]...`; it reads with git alone.

Prints `CODE PROTOCOL why` a protocol and exits with the worst: 4 does not hold, 5 this clone cannot tell, 0 verified.
"""
# mypy: ignore-errors
# ruff: noqa: E401, SIM905
# fmt: off
import hashlib, json, os, re, subprocess, sys

SEAL = {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull, "GIT_NO_REPLACE_OBJECTS": "1", "GIT_NO_LAZY_FETCH": "1",
        "GIT_GRAFT_FILE": os.devnull, "PATH": os.environ["PATH"]}
HEAD = re.compile(r"## ([1-9]\d*) ([a-z]+(?:-[a-z]+)*) ([a-z0-9][a-z0-9-]*)")
FIELD, BARE = re.compile(r"- ([a-z_]+): ([ -~]+)"), re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:/@+-]*")
TRAILERS = re.compile(r"Runner-Protocol: (\S+)\nRunner-Revision: (\d+)\n((?:Runner-Event: [a-z-]+ [a-z0-9-]+\n)+)"
                      r"Runner-Trusted: ([0-9a-f]{40}|[0-9a-f]{64})\nRunner-Actor: (\S+)\n")
RECORD, STEP_FILE = re.compile(r"state\.json|log\.md|(log|calls|reports)/.*"), re.compile(r"(\d{2,6})-([a-z0-9-]+)\.md")
OPEN = {"pending", "planning", "planned", "running", "paused", "blocked", "failed"}
WORK, QA = {"pending", "running", "needs_qa", "awaiting_approval"}, {"needs_qa"}
STEP = {  # event: from which status of its step, to which; events about a call or an approval are not judged here yet
    "step-finished": ({"pending", "running"}, "needs_qa"), "qa-passed": (QA, "needs_qa"), "qa-failed": (QA, "needs_qa"),
    "step-completed": (QA, "completed"), "step-failed": (WORK, "failed"), "step-blocked": (WORK, "blocked"),
    "step-cancelled": (WORK | {"failed", "blocked"}, "cancelled"),
    "step-retried": ({"failed", "blocked", "completed", "needs_qa"}, "pending")}
ALL = {"planned": {"pending", "planning"}, "paused": OPEN - {"paused"}, "blocked": OPEN - {"blocked", "failed"},
       "failed": OPEN - {"failed"}, "cancelled": OPEN, "completed": {"planned", "running"}}
FREE = {"ci-reported", "request-changed", "undone", "record-repaired"}
SAYS = set("all done finished failed blocked retried to be tried again passed did not pass edited".split())
THEN = {"created": "planned", "step-finished": "step-completed", "answered": "resumed", "qa-passed": "step-completed",
        "qa-failed": "step-failed step-blocked", "step-failed": "step-retried failed", "step-blocked": "blocked",
        "step-completed": "completed", "step-retried": "step-retried resumed", "step-cancelled": "step-cancelled cancelled"}

def need(holds, why):
    if not holds:
        raise ValueError(why)

def sha(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()

class Repo:
    def __init__(self, path):
        self.argv, self.known = ["git", f"--git-dir={path}", "-c", "core.commitGraph=false", "-c", "protocol.allow=never"], {}
        self.cat = subprocess.Popen([*self.argv, "cat-file", "--batch"], env=SEAL, stdin=-1, stdout=-1, stderr=-3)
    def get(self, oid):
        if oid not in self.known:
            self.cat.stdin.write(oid.encode() + b"\n")
            self.cat.stdin.flush()
            told = self.cat.stdout.readline().split()
            if len(told) != 3:
                raise BrokenPipeError(f"no {oid[:12]}")
            data, width = self.cat.stdout.read(int(told[2]) + 1)[:-1], len(oid) // 2
            if told[1] == b"tree":
                found = re.findall(rb"([0-7]+) ([^\0]+)\0(.{%d})" % width, data, re.DOTALL)
                data = {name.decode("utf-8", "surrogateescape"): (mode.decode(), raw.hex()) for mode, name, raw in found}
                need(len(data) == len(found), "a tree names something twice")
            elif told[1] == b"commit":
                head, _, message = data.partition(b"\n\n")
                keys, values = zip(*(line.partition(b" ")[::2] for line in head.split(b"\n") if line[:1] != b" "), strict=True)
                count = next(at for at in range(1, len(keys) + 1) if keys[at:at + 1] != (b"parent",)) - 1
                plain = [k for k in keys if k[:6] != b"gpgsig"] == [b"tree", *[b"parent"] * count, b"author", b"committer"]
                data = values[0].decode(), [value.decode() for value in values[1:count + 1]], message, plain
            self.known[oid] = data
        return self.known[oid]
    def flat(self, tree, prefix=""):
        for name, (mode, oid) in self.get(tree).items() if tree else ():
            yield from self.flat(oid, f"{prefix}{name}/") if mode == "40000" else [(prefix + name, (mode, oid))]
    def folder(self, tree, name):
        for part in (".protocols", name):
            mode, tree = self.get(tree).get(part, ("", None))
            if mode != "40000":
                return None
        return tree
    def changed(self, one, other, prefix=""):
        was, now = (self.get(tree) if tree else {} for tree in (one, other))
        for name in {name for name in was.keys() | now.keys() if was.get(name) != now.get(name)}:
            pair = [side.get(name, ("", None)) for side in (was, now)]
            yield from [prefix + name] if any(mode not in ("", "40000") for mode, _ in pair) else []
            trees = [oid if mode == "40000" else None for mode, oid in pair]
            yield from self.changed(*trees, f"{prefix}{name}/") if any(trees) else []
    def chain(self, tip, name):
        found, at, last = [], tip, None
        while at:
            tree, parents, message, _ = self.get(at)
            if last is None and not ours(message, name) and self.folder(tree, name) is None:
                asked = [*self.argv, "rev-list", "--first-parent", "-1", at, "--", f".protocols/{name}"]
                last = subprocess.run(asked, env=SEAL, capture_output=True, text=True).stdout.strip()
                if not last:
                    break
            found, last, at = [at, *found], None if at == last else last, parents[0] if parents else None
        return found

def ours(message, name=None):
    found = TRAILERS.fullmatch(message.decode("latin-1").rpartition("\n\n")[2])
    return found if found and name in (None, found[1]) else None

def entries(data):
    need(data == b"" or data.endswith(b"\n\n"), "the log is cut off")
    for block in data.decode("ascii").split("\n\n")[:-1]:
        first, pairs, f = HEAD.fullmatch(block.split("\n")[0]), [FIELD.fullmatch(line) for line in block.split("\n")[1:]], {}
        need(first and all(pairs) and [pair[1] for pair in pairs[:2]] == ["time", "actor"], "the log is not of the grammar")
        for _, key, text in (pair.group(0, 1, 2) for pair in pairs):
            need(key not in f and (BARE.fullmatch(text) or text[0] in '"[{-'), f"the field {key}")
            f[key] = text if BARE.fullmatch(text) and not re.fullmatch(r"\d+|true|false|null", text) else json.loads(text)
        yield int(first[1]), first[2], first[3], f, block + "\n"

def fold(s, number, name, about, f, protocol):
    if s is None:
        need(name == "created" and number == 1 and about == protocol and re.fullmatch("[0-9a-f]{32}", f["nonce"]), "no genesis")
        return {"genesis": sha(f["nonce"].encode()), "revision": 1, "status": "pending", "plan": None, "steps": {}}
    steps, step, status = s["steps"], s["steps"].get(about), s["status"]
    need(number == s["revision"] + 1 and (step or about in ("plan", protocol)), f"{number} {name} {about}")
    need(name in ALL or name in STEP or name in FREE | {"plan-edited", "asked", "answered", "resumed"}, f"{name} is not known")
    need((status in OPEN and status in ALL.get(name, OPEN)) or name in FREE, f"{name} of a protocol that is {status}")
    need(about == protocol or name == "planned" or name not in FREE | {*ALL, "resumed"}, f"{name} of {about}")
    need(all(re.fullmatch(r"\d{1,15}(\.\d{1,12})?", str(amount)) for amount in f.get("spent", {}).values()), "odd amounts")
    s["revision"], s["status"] = number, name if name in ALL else status
    if name in STEP:
        again = name == "step-retried"
        need(step and not step["removed"] and step["status"] in STEP[name][0], f"{number} {name} {about}")
        need(f.get("attempt", step["attempt"] + again) == step["attempt"] + again, f"{number} {name}: attempt")
        need(status in (OPEN - {"pending", "planning"} if again else {"planned", "running", "paused", "blocked"}), name)
        need(name != "step-finished" or f["digest"] == step["digest"], "another step was carried out")
        need(name != "qa-passed" or (f["evidence"] and not any(check["code"] for check in f["evidence"])), "no evidence")
        need(name != "step-completed" or step["passed"] or step["qa"] == "skip", "completed without QA")
        step |= {"status": STEP[name][1], "attempt": step["attempt"] + again}
        step |= {"result": f.get("result")} if again or name == "step-finished" else {}
        step |= {"passed": name == "qa-passed"} if again or name[:3] == "qa-" else {}
        s["status"] = "running" if status == "planned" or (again and status in ("failed", "blocked")) else status
    elif name in ("planned", "plan-edited"):
        for slug, told in f["steps"].items():
            old = steps.get(slug, {"status": "pending", "attempt": 1, "result": None, "passed": False, **told})
            stale = old["qa"] != told["qa"] and old["status"] in QA
            steps[slug] = {**old, **told, "removed": False, "passed": old["passed"] and not stale}
        for slug in f.get("removed", []):
            need(not steps[slug]["removed"], f"there is no step {slug}")
            steps |= {slug: {**gone, "removed": True}} if (gone := steps.pop(slug))["status"] in ("completed", "cancelled") else {}
        s["plan"] = f["plan"]
    elif name == "asked":
        need(f["kind"] != "human" or (step["status"] == "pending" and status in ("planned", "running")), "asked")
        s["status"] = {"planned": "running"}.get(status, status) if step else {"pending": "planning"}.get(status, status)
        steps |= {about: {**step, "status": "running"}} if step else {}
    elif name == "resumed":
        need(status in ("paused", "blocked") and s["plan"], "resumed")
        begun = any(step["status"] != "pending" or step["attempt"] > 1 for step in steps.values())
        s["status"] = "running" if begun else "planned"
    elif name == "undone":
        need(0 < f["to"] < number and all(slug in steps for slug in f["steps"]), "undone")
        steps |= {slug: {**steps[slug], **told, "passed": False} for slug, told in f["steps"].items()}
        s["status"] = f["status"]
    elif name == "completed":
        need(all(step["removed"] or step["status"] in ("completed", "cancelled") for step in steps.values()), "not done")
    return s

def plan_holds(repo, files, state):
    told = {path: repo.get(oid) for path, (_, oid) in files.items() if path in ("plan.md", "context.md") or STEP_FILE.fullmatch(path)}
    lines = [f"100644 {sha(told[p])[7:]} {len(told[p])} {p}\n" for p in ("context.md", "plan.md") if p in told]
    need(sha("".join(lines).encode()) == state["plan"], "the plan's digest")
    found = {STEP_FILE.fullmatch(p)[2]: (int(STEP_FILE.fullmatch(p)[1]), data) for p, data in told.items() if STEP_FILE.fullmatch(p)}
    need(found.keys() == {slug for slug, step in state["steps"].items() if not step["removed"]}, "other steps than the files")
    for slug, (place, data) in found.items():
        step, front = state["steps"][slug], data.decode().split("---")[1]
        need((place, sha(data)) == (step["place"], step["digest"]), f"{slug} is not its file")
        asks = "skip" not in front and re.search(r"(?m)^(qa|outputs):", front)
        need(not (asks and step["qa"] == "skip" and step["status"] == "pending"), f"{slug} asks for QA")

def verify(repo, tip, name):
    own, s, log, record, words, damaged, revisions = f".protocols/{name}/", None, b"", {}, {}, [], {}
    chain = repo.chain(tip, name)
    need(chain, "there is no history")
    for oid in chain:
        tree, parents, message, plain = repo.get(oid)
        files = dict(repo.flat(repo.folder(tree, name)))
        now = {path: entry for path, entry in files.items() if RECORD.fullmatch(path)}
        odd = [path for path, (mode, _) in files.items() if mode not in ("100644", "100644" if path in now else "100755")
               or not re.fullmatch(r"[ -\[\]-~]+", path)] + [0] * (len(files) - len({path.lower() for path in files}))
        beside = [*repo.get(tree), *(repo.get(repo.get(tree)[".protocols"][1]) if files else ())]
        odd += [path for path in beside if path.casefold() in (".protocols", name) and path not in (".protocols", name)]
        kept, words = words, {path: entry for path, entry in files.items() if path[:10] == "approvals/"}
        need(kept.items() <= words.items(), f"{oid[:12]}: an approval was changed")
        told = ours(message, name)
        if not told:
            need(s and (ours(message) or not re.search(rb"(?im)^runner-[a-z]+[ \t]*[:=]", message)), f"{oid[:12]}: no transition")
            damaged = [*damaged, oid] if now != record else []
            continue
        need(len(parents) == 1 and plain and not odd, f"{oid[:12]}: its shape, {odd}")
        due = {f"log/{1 + sum(path[:4] == 'log/' for path in record):04d}.md"} if len(log) > 65536 else set()
        new, log = repo.get(now["log.md"][1]), b"" if [need(repo.get(now[path][1]) == log, path) for path in due] else log
        need(new.startswith(log), f"{oid[:12]}: log.md does not go on")
        added, before, was, free = list(entries(new[len(log):])), s, repo.get(parents[0])[0], {"log.md", "state.json", *due}
        need(all(now.get(path) == record[path] for path in record.keys() - {"log.md", "state.json"}), f"{oid[:12]}: record")
        need(added and now.keys() <= record.keys() | free, f"{oid[:12]}: a new file in the record")
        kinds, tail = [one[1] for one in added], "".join(f"Runner-Event: {one[1]} {one[2]}\n" for one in added)
        tail = f"Runner-Protocol: {name}\nRunner-Revision: {added[-1][0]}\n{tail}Runner-Trusted: {told[4]}\n"
        title, _, body = message.decode().partition("\n\n")
        need(body == "\n".join(one[4] for one in added) + f"\n{tail}Runner-Actor: {added[-1][3]['actor']}\n", f"{oid[:12]}: message")
        said = {name + ":", *SAYS, *(word + end for one in added for word in (one[2], one[1], one[1].split("-")[-1]) for end in ("", ","))}
        need(set(title.split(" ")) <= said, f"{oid[:12]}: its subject line")
        need(all(two in THEN.get(one, "").split() for one, two in zip(kinds, kinds[1:], strict=False) if one != "plan-edited"), "two acts")
        for number, kind, about, f, _ in added:
            s = fold(s, number, kind, about, f, name)
            if kind == "step-finished":
                found = [repo.get(e[1]) for at in (tree, f["start"] if f["start"] in chain else tree) for path, e in
                         repo.flat(repo.folder(repo.get(at)[0] if at in chain else at, name)) if path.partition("-")[2] == about + ".md"]
                need(f["digest"] in map(sha, found), f"{oid[:12]}: {about} is not its file")
                flat = dict(repo.flat(tree)) if f.get("artifacts") and f["start"] == parents[0] else {}
                need(all(sha(repo.get(flat[a["path"]][1])) == a["digest"] for a in f.get("artifacts", []) if a["path"] in flat), "artifact")
            need(kind[:3] != "qa-" or f["tree"] == was, f"{oid[:12]}: QA of another tree")
            need(kind != "record-repaired" or sorted(f["commits"]) == sorted(damaged), f"{oid[:12]}: repaired")
            then = revisions.get(f.get("to")) if kind == "undone" else None
            need(kind != "undone" or then, f"{oid[:12]}: undone")
            need(not then or all(path.startswith(".protocols/") for path in repo.changed(then[0], tree)), f"{oid[:12]}: undone")
            need(not then or all(step["status"] in ("pending", then[1].get(slug)) for slug, step in f["steps"].items()), "undone")
        need(not damaged or "record-repaired" in kinds, f"{damaged} changed the record")
        works = any(one[1] == "step-finished" and one[3]["executor"] != "person" for one in added)
        for path in repo.changed(was, tree):
            need(not path.startswith(own) or RECORD.fullmatch(path[len(own):]) or before is None, f"{oid[:12]}: words, {path}")
            free = works and (path.split("/")[0].casefold() != ".protocols" or path.startswith(".protocols/memory/"))
            need(path.startswith(own) or free or "undone" in kinds, f"{oid[:12]}: {path}")
        if {"planned", "plan-edited"} & {*kinds}:
            plan_holds(repo, files, s)
        plain = json.loads(repo.get(now["state.json"][1]))
        need((json.dumps(plain, indent=2, sort_keys=True) + "\n").encode() == repo.get(now["state.json"][1]), "state.json is not plain")
        need(all(plain[key] == s[key] for key in s if key != "steps") and plain["log"] == sha(new), f"{oid[:12]}: state.json")
        steps = {slug: {key: step[key] for key in step if step[key] or key == "result"} for slug, step in s["steps"].items()}
        need(all(step.items() <= {"needs": 0, **plain["steps"].get(slug, {})}.items() for slug, step in steps.items()), "a step's state")
        log, record, damaged = new, now, []
        revisions[s["revision"]] = tree, {slug: step["status"] for slug, step in s["steps"].items()}
    need(s and not damaged and not odd, f"the record or the folder is damaged since {damaged}")

if __name__ == "__main__":
    codes, repository = [0], Repo(sys.argv[1])
    for branch, protocol in zip(sys.argv[2::2], sys.argv[3::2], strict=True):
        code, why = 0, "verified"
        try:
            tip = subprocess.run([*repository.argv, "rev-parse", branch], env=SEAL, capture_output=True, text=True).stdout.strip()
            verify(repository, tip, protocol)
        except BrokenPipeError as error:
            code, why, repository = 5, str(error), Repo(sys.argv[1])
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            code, why = 4, f"{type(error).__name__} {error}"
        print(code, protocol, why)
        codes.append(code)
    sys.exit(4 if 4 in codes else max(codes))
