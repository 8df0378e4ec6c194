"""A second verifier, written from docs/design.md: `second_verifier.py REPOSITORY [BRANCH PROTOCOL]...`; it reads with git alone.
Prints `CODE PROTOCOL why` and exits with the worst: 4 does not hold, 5 this clone cannot tell, 0 verified; what is not judged is said."""
import hashlib, json, os, re, subprocess, sys
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from second_log import entries, ours, rest
from second_words import Court, default, may_begin, taken_back, taken_over
SEAL = {**dict.fromkeys(("GIT_CONFIG_GLOBAL", "GIT_GRAFT_FILE"), os.devnull), "PATH": os.environ["PATH"],
        **dict.fromkeys(("GIT_CONFIG_NOSYSTEM", "GIT_NO_REPLACE_OBJECTS", "GIT_NO_LAZY_FETCH"), "1")}
RECORD, STEP_FILE = re.compile(r"state\.json|log\.md|(log|calls|reports)/.*"), re.compile(r"(\d{2,6})-([a-z0-9-]+)\.md")
OPEN = {"pending", "planning", "planned", "running", "paused", "blocked", "failed"}
KINDS, WORKING, WORK, QA = {4: "40000", 8: "100644", 10: "120000"}, {"planned", "running", "paused", "blocked"}, {"pending", "running", "needs_qa", "awaiting_approval"}, {"needs_qa"}
STEP = {  # event: from which status of its step, to which
    "call-held": (WORK - QA, "awaiting_approval"), "call-decided": ({"awaiting_approval"}, "running"), "effect-unknown": (WORK - QA, "running"), "effect-decided": ({"running"}, "running"),
    "step-finished": ({"pending", "running"}, "needs_qa"), "qa-passed": (QA, "needs_qa"), "qa-failed": (QA, "needs_qa"),
    "step-completed": (QA, "completed"), "step-failed": (WORK, "failed"), "step-blocked": (WORK, "blocked"),
    "step-cancelled": (WORK | {"failed", "blocked"}, "cancelled"), "step-retried": (QA | {"failed", "blocked", "completed"}, "pending")}
ALL = {"planned": {"pending", "planning"}, "imported": {"pending"}, "forked": {"pending"}, "paused": OPEN - {"paused"}, "blocked": OPEN - {"blocked", "failed"}, "failed": OPEN - {"failed"}, "cancelled": OPEN | {"cancelled"}, "completed": {"planned", "running"}}
PLANS, FREE, SAYS = ("planned", "imported", "forked", "plan-edited"), {"ci-reported", "request-changed", "undone", "record-repaired"}, set("all done finished failed blocked retried to be tried again passed did not pass edited".split())
AFTER = {"call-decided", "approval-asked", "approval-counted", "approval-refused", "plan-edited", "planned", "imported", "forked", "step-completed", "completed", "failed", "blocked", "step-retried", "step-cancelled", "cancelled"}

def need(holds, why, error=ValueError):
    if not holds: raise error(why)
def sha(data): return "sha256:" + hashlib.sha256(data).hexdigest()

class Repo:
    def __init__(self, path):
        self.argv, self.known = ["git", f"--git-dir={path}", "-c", "core.commitGraph=false", "-c", "protocol.allow=never"], {}
        self.cat = subprocess.Popen([*self.argv, "cat-file", "--batch"], env=SEAL, stdin=-1, stdout=-1, stderr=-3)
    def ask(self, *words): return subprocess.run([*self.argv, *words], env=SEAL, capture_output=True, text=True).stdout.strip()
    def read(self, name):
        self.cat.stdin.write(name.encode() + b"\n") and self.cat.stdin.flush()
        told = self.cat.stdout.readline().split()
        return (told[0].decode(), told[1], self.cat.stdout.read(int(told[2]) + 1)[:-1]) if len(told) == 3 else ("", b"", b"")
    def get(self, oid):
        if oid not in self.known:
            _, kind, data = self.read(oid)
            need(kind, f"no {oid[:12]}", BrokenPipeError)
            width = len(oid) // 2
            if kind == b"tree":
                found = re.findall(rb"([0-7]+) ([^\0]+)\0(.{%d})" % width, data, re.DOTALL)
                data = {name.decode("utf-8", "surrogateescape"): ("100755" if int(mode, 8) & 0o170100 == 0o100100 else KINDS.get(int(mode, 8) >> 12, "160000"), raw.hex()) for mode, name, raw in found}
                need(len(data) == len(found) and not {".", ".."} & data.keys(), "a tree names something twice, or what is no name")
            elif kind == b"commit":
                head, _, message = data.partition(b"\n\n")
                keys, values = zip(*(line.partition(b" ")[::2] for line in re.sub(rb"\ngpgsig[^\n]*(\n [^\n]*)*", b"", head).split(b"\n")), strict=True)
                count = next(at for at in range(1, len(keys) + 1) if keys[at:at + 1] != (b"parent",)) - 1
                plain = [*keys] == [b"tree", *[b"parent"] * count, b"author", b"committer"]
                data = values[0].decode(), [value.decode() for value in values[1:count + 1]], message, plain, b"\ngpgsig" in head
            self.known[oid] = data
        return self.known[oid]
    def flat(self, tree, prefix=""):
        for name, (mode, oid) in self.get(tree).items() if tree else ():
            yield from self.flat(oid, f"{prefix}{name}/") if mode == "40000" else [(prefix + name, (mode, oid))]
    def folder(self, tree, name):
        mode, tree = self.get(tree).get(".protocols", ("", None))
        mode, tree = self.get(tree).get(name, ("", None)) if mode == "40000" else ("", None)
        return tree if mode == "40000" else None
    def changed(self, one, other, prefix=""):
        was, now = (self.get(tree) if tree else {} for tree in (one, other))
        for name in {name for name in was.keys() | now.keys() if was.get(name) != now.get(name)}:
            pair = [side.get(name, ("", None)) for side in (was, now)]
            yield from [prefix + name] if any(mode not in ("", "40000") for mode, _ in pair) else []
            yield from self.changed(*(oid if mode == "40000" else None for mode, oid in pair), f"{prefix}{name}/")
    def chain(self, tip, name):
        found, at, last = [], tip, None
        while at:
            tree, parents, message, *_ = self.get(at)
            if last is None and not ours(message, name) and self.folder(tree, name) is None:
                last = self.ask("rev-list", "--first-parent", "-1", at, "--", f".protocols/{name}")
                if not last: break
            found, last, at = [at, *found], None if at == last else last, parents[0] if parents else None
        return found

def fold(s, number, name, about, f, protocol):
    if s is None:
        need(name == "created" and number == 1 and about == protocol and re.fullmatch("[0-9a-f]{32}", f["nonce"]) and f.get("schema") in (None, 2), "no genesis")
        return {"schema": f.get("schema", 1), "genesis": sha(f["nonce"].encode()), "revision": 1, "status": "pending", "plan": None, "steps": {}}
    steps, step, status, kinds = s["steps"], s["steps"].get(about), s["status"], {*ALL, *STEP, *FREE, "plan-edited", "approval-asked", "approval-counted", "approval-refused", "asked", "answered", "resumed", "budget-reached"}
    need(number == s["revision"] + 1 and (step or about in ("plan", protocol)) and name in kinds, f"{number} {name} {about}")
    need(((status in OPEN and status in ALL.get(name, OPEN)) or name in FREE or (status == name == "cancelled" and f.get("spent")))
         and (about == protocol or name in PLANS or name not in FREE | {*ALL, "resumed"}), f"{name} of {about}, {status}")
    need(all(re.fullmatch(r"\d{1,15}(\.\d{1,12})?", str(amount)) for amount in f.get("spent", {}).values()), "odd amounts")
    s["revision"], s["status"] = number, "planned" if name in PLANS[:3] else name if name in ALL else status
    if name in STEP:
        again = need(step and not step["removed"] and step["status"] in STEP[name][0], f"{number} {name}") or name == "step-retried"
        need(f.get("attempt", step["attempt"] + again) == step["attempt"] + again and status in WORKING | ({"failed"} if again else set()), name)
        need(name != "step-finished" or (f["digest"] == step["digest"] and (step["kind"] != "human" or step["status"] == "running")), "another step was carried out")
        need(name != "qa-passed" or {check["code"] for check in f["evidence"]} == {0}, "no evidence")
        need(name != "step-completed" or step["passed"] or step["qa"] == "skip", "completed without QA")
        step |= {"status": STEP[name][1], "attempt": step["attempt"] + again}
        step |= ({"result": f.get("result")} if again or name == "step-finished" else {}) | ({"passed": name == "qa-passed"} if again or name[:3] == "qa-" else {})
        s["status"] = "running" if status == "planned" or (again and status in ("failed", "blocked")) else status
        if again: ask_again(steps)
    elif name in PLANS:
        for slug, told in f["steps"].items():
            old = steps.get(slug, {"status": "pending", "attempt": 1, "result": None, "passed": False, **told})
            steps[slug] = {**old, **told, "removed": False, "passed": old["passed"] and old["status"] not in QA} | ({"status": "completed", "result": f["done"][slug]} if slug in f.get("done", {}) else {})
            if old.get("removed") and old["status"] != "completed":
                steps[slug] |= {"status": "pending", "attempt": old["attempt"] + 1, "result": None, "passed": False}
        for slug in f.get("removed", []):
            if ((gone := steps.pop(slug))["status"], gone["attempt"]) != ("pending", 1):
                steps[slug] = {**gone, "removed": True, "status": "completed" if gone["status"] == "completed" else "cancelled"}
        s["plan"] = ask_again(steps) or f["plan"]
    elif name == "asked":
        need(f["kind"] != "human" or (step["status"] == "pending" and status in ("planned", "running")), "asked")
        s["status"] = {"planned": "running"}.get(status, status) if step else {"pending": "planning"}.get(status, status)
        if step: step["status"] = "running"
    elif name == "resumed":
        stuck = [end for end in ("failed", "blocked") if end in {step["status"] for step in steps.values() if not step["removed"]}]
        begun = need(status in ("paused", "blocked") or (status == "failed" and not stuck), name) or {(step["status"], step["attempt"]) for step in steps.values()} != {("pending", 1)}
        s["status"] = [*stuck, "planning" if not s["plan"] else "running" if begun else "planned"][0]
    elif name == "undone" and need(f["status"] not in ("pending", "planning"), "no plan is undone") is None:
        s |= {"status": f["status"], "steps": steps | {slug: {**steps[slug], **told, "passed": False} for slug, told in f["steps"].items()}}
    elif name == "completed": need(all(step["removed"] or step["status"] in ("completed", "cancelled") for step in steps.values()), "not done")
    return s
def below(steps, needs, seen=()):
    return any(steps.get(one, {"status": "none"})["status"] not in ("completed", "cancelled") or (one not in seen and below(steps, steps[one]["needs"], (*seen, one))) for one in needs)
def ask_again(steps):
    for step in steps.values():
        if step["kind"] == "human" and step["status"] == "running" and not step["removed"] and below(steps, step["needs"]):
            step |= {"status": "pending", "attempt": step["attempt"] + 1}
def plan_holds(repo, files, state, title, trusted):
    told = {path: repo.get(oid) for path, (_, oid) in files.items() if path in ("plan.md", "context.md") or STEP_FILE.fullmatch(path)}
    lines = "".join(f"100644 {sha(told[p])[7:]} {len(told[p])} {p}\n" for p in ("context.md", "plan.md") if p in told)
    need(sha(lines.encode()) == state["plan"] and {*re.findall("[a-z0-9]+", title.lower())} <= {*re.findall("[a-z0-9]+", told["plan.md"].decode().lower())}, "the plan's digest, or title")
    found = {match[2]: (int(match[1]), data) for p, data in told.items() if (match := STEP_FILE.fullmatch(p))}
    need(found.keys() == {slug for slug, step in state["steps"].items() if not step["removed"]}, "other steps than the files")
    for slug, (place, data) in found.items():
        step, front = state["steps"][slug], data.decode().split("---")[1]
        asks = "skip" not in front and step["status"] == "pending" and (re.search(r"(?m)^(qa|outputs):", front) or default(front, told["plan.md"].decode(), repo.read(f"{trusted}:.protocols/config.yaml")[2].decode().strip()))
        need((place, sha(data)) == (step["place"], step["digest"]) and not (asks and step["qa"] == "skip"), f"{slug} is not its file")

def verify(repo, tip, name):
    own, s, log, record, words, damaged, revisions, starts, chain, notes, recorded = f".protocols/{name}/", None, b"", {}, {}, [], {}, {}, repo.chain(tip, name), [], {}
    for oid in chain:
        (tree, parents, message, plain, _), told = repo.get(oid), ours(repo.get(oid)[2], name)
        files = dict(repo.flat(repo.folder(tree, name)))
        now = {path: entry for path, entry in files.items() if RECORD.fullmatch(path)}
        odd = [path for path, (mode, _) in files.items() if mode not in ("100644", "100644" if path in now else "100755")
               or not re.fullmatch(r"[ -\[\]-~]+", path)] + [0] * (len(files) - len({path.lower() for path in files}))
        odd += [path for path in [*repo.get(tree), *(repo.get(repo.get(tree)[".protocols"][1]) if files else ())]
                if path.casefold() in (".protocols", name) and path not in (".protocols", name)]
        words = need(all(files.get(path) == entry for path, entry in words.items()), f"{oid[:12]}: an approval was changed") or {path: entry for path, entry in files.items() if path[:10] == "approvals/"}
        if not told:
            damaged = need(s and (ours(message) or not re.search(rb"(?im)^runner-[a-z]+[ \t]*[:=]", message)), f"{oid[:12]}: no transition") or ([*damaged, oid] if now != record else [])
            continue
        need(len(parents) == 1 and plain and not odd, f"{oid[:12]}: its shape, {odd}")
        due = {f"log/{1 + sum(path[:4] == 'log/' for path in record):04d}.md"} if len(log) > 65536 else set()
        new, log = repo.get(now["log.md"][1]), b"" if [need(repo.get(now[path][1]) == log, path) for path in due] else log
        added, before, was, free = list(entries(new[len(log):])), s, repo.get(parents[0])[0], {"log.md", "state.json", *due}
        if s: starts[s["revision"]] = was
        named = {f"reports/{a}.{f['attempt']}.md": f["report"] for _, k, a, f, _ in added if k[:3] == "qa-" and "report" in f} | {f"calls/{f['call']}.json": f["digest"] for _, k, a, f, _ in added if k == "call-held" and f["call"].split(".")[0] == a}
        kept = [now.get(path) == record[path] for path in record.keys() - {"log.md", "state.json"}] + [sha(repo.get(now[path][1])) == told for path, told in named.items()]
        need(new.startswith(log) and all(kept) and added and now.keys() <= record.keys() | free | named.keys(), f"{oid[:12]}: the record's other files")
        kinds, (title, _, body), recorded[oid] = [one[1] for one in added], message.decode().partition("\n\n"), added
        said = {name + ":", *SAYS, *(word + end for one in added for word in (one[2], one[1], one[1].split("-")[-1]) for end in ("", ","))}
        need({*title.split(" ")} <= said, f"{oid[:12]}: its message")
        need(sum(one[1] not in AFTER and one[1:3] != ("asked", "plan") for one in added) <= 1 + ("qa-failed" in kinds or kinds[0] == "ci-reported")
             and len({one[2] for one in added if one[1] in STEP and one[1] not in ("step-retried", "step-cancelled", "call-decided")}) <= 1, f"{oid[:12]}: two transitions, {kinds}")
        brought = {p for p in files if s and not s["plan"] and any("transcript" in one[3] for one in added if one[1] == "planned") and
                   (p == "plan.md" or STEP_FILE.fullmatch(p))} - dict(repo.flat(repo.folder(was, name))).keys()
        for number, kind, about, f, _ in added:
            s, notes = need(s is None or may_begin(repo, chain[:chain.index(oid)], name, s["steps"], kind, about), f"{oid[:12]}: {about} began early") or fold(s, number, kind, about, f, name), notes + (taken_over(repo, parents[0], name, f, verify, ours, entries) if kind == "forked" else [])
            if kind == "step-finished":
                found = [repo.get(e[1]) for at in (tree, f["start"] if f["start"] in chain else tree) for path, e in
                         repo.flat(repo.folder(repo.get(at)[0] if at in chain else at, name)) if path.partition("-")[2] == about + ".md"]
                need(f["digest"] in map(sha, found), f"{oid[:12]}: {about} is not its file")
                flat, merged = dict(repo.flat(tree)) if f.get("artifacts") else {}, f["start"] in chain and f["executor"] != "person" and any(not path.startswith(own) for path in repo.changed(repo.get(f["start"])[0], was))
                need(merged or all(sha(b"" if flat[a["path"]][0] == "160000" else repo.get(flat[a["path"]][1])) == a["digest"] for a in f.get("artifacts", [])), "artifact")
            need((kind[:3] != "qa-" or f["tree"] == was) and sorted(f.get("commits", damaged)) == sorted(damaged), f"{oid[:12]}: {kind}")
            if kind == "undone":
                then, (now_, was_) = revisions[f["to"]], (json.loads(repo.get(dict(repo.flat(repo.folder(at, name)))["state.json"][1])) for at in (was, revisions[f["to"]]))
                need(any(all(path.startswith(".protocols/") for path in repo.changed(one, tree)) for one in (then, starts[f["to"]])) and len(added) == 1 and taken_back(now_, was_) == {key: f[key] for key in ("to", "status", "steps", "artifacts", "dropped")}, f"{oid[:12]}: undone")
        need(body == rest(repo, told, name, added, s) and all((one[4][:3] == "## ") == (s["schema"] == 1) for one in added), f"{oid[:12]}: its message, or how its entries are written")
        works = need((not damaged or "record-repaired" in kinds) and ("step-cancelled" not in kinds or kinds[-1] == "cancelled"), f"{oid[:12]}: {damaged} changed the record, or a step is cancelled and its protocol not") or any((f.get("executor", "person") != "person" and kind == "step-finished") or (kind in ("asked", "call-held", "effect-unknown") and "transcript" in f and about != "plan") for _, kind, about, f, _ in added)
        for path in repo.changed(was, tree):
            need(not path.startswith(own) or RECORD.fullmatch(path[len(own):]) or before is None or path[len(own):] in brought, f"{oid[:12]}: words, {path}")
            free = works and (path.split("/")[0].casefold() != ".protocols" or path.startswith(".protocols/memory/"))
            need(path.startswith(own) or free or ("undone" in kinds and not path.startswith(".protocols/")), f"{oid[:12]}: {path}")
        {*PLANS}.isdisjoint(kinds) or plan_holds(repo, files, s, added[0][3].get("title", ""), told[4])
        raw, plain = repo.get(now["state.json"][1]), json.loads(repo.get(now["state.json"][1]))
        need((json.dumps(plain, indent=2, sort_keys=True) + "\n").encode() == raw, f"{oid[:12]}: state.json is written otherwise")
        need(all(plain[key] == s[key] for key in s if key != "steps") and plain["log"] == sha(new) and all(plain["steps"][slug].get(key, False) == one[key] for slug, one in s["steps"].items() for key in one if one[key]), f"{oid[:12]}: state.json")
        log, record, damaged, revisions[s["revision"]] = new, now, [], tree
    need(s and not damaged and not odd, f"the record or the folder is damaged since {damaged}")
    return notes + Court(repo, chain, name, ours, recorded).judge()
def judged(path, branch, protocol):
    repository, code, why = Repo(path), 0, "verified"
    try: why = "verified" + "".join(f", not judged: {one}" for one in verify(repository, repository.read(branch)[0], protocol))
    except (BrokenPipeError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        code, why = 5 if isinstance(error, BrokenPipeError) else 4, f"{type(error).__name__} {error}"
    finally: repository.cat.kill() or repository.cat.communicate()
    return code, why
if __name__ == "__main__":
    codes = [print(code, protocol, why) or code for branch, protocol in zip(sys.argv[2::2], sys.argv[3::2], strict=True) for code, why in [judged(sys.argv[1], branch, protocol)]]
    sys.exit(4 if 4 in codes else max(codes, default=0))
