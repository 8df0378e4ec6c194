"""The second verifier's judge of deeds, written from docs/design.md §4 and §5: whether what was done of a step needed a word, and had one.

What a policy says beyond roles (rules, limits, protected paths of its own, isolation, engines) it does not judge, and says so.
"""

import json, re, subprocess, tempfile
from second_policy import NotJudged, Policy, need
WORK = {"step-finished", "step-failed", "step-blocked", "call-held", "asked", "effect-unknown", "budget-reached"}
DEEDS, PREFIX = WORK | {"qa-passed", "qa-failed", "step-completed"}, ("plan-edited", "approval-counted", "approval-refused", "call-decided")
GUARDED = re.compile(r"(?i)^(\.github|\.forgejo|scripts/ci)(/|$)|^\.gitlab-ci\.yml$|(^|/)(\.gitattributes|\.gitmodules|(agents|claude|gemini)\.md|\.cursorrules|codeowners)$")

def sound(repo, oid):  # that no commit has an SSH signature over other bytes
    raw = subprocess.run([*repo.argv, "cat-file", "commit", oid], capture_output=True).stdout if repo.get(oid)[4] else b""
    found = re.search(rb"\ngpgsig(?:-sha256)? (-----BEGIN SSH SIGNATURE-----.*?-----END SSH SIGNATURE-----)(?=\n)", raw, re.DOTALL)
    if not found: return True
    with tempfile.NamedTemporaryFile() as file:
        file.write(found[1].replace(b"\n ", b"\n") + b"\n") and file.flush()
        argv = ["ssh-keygen", "-Y", "check-novalidate", "-n", "git", "-s", file.name]
        return subprocess.run(argv, input=raw[:found.start()] + raw[found.end():], capture_output=True).returncode == 0

def listed(text):  # a YAML list of plain or quoted texts, in a line or with a dash each
    rows = [row.strip() for row in text.strip().split("\n") if row.strip()]
    rows = re.findall(r"""\s*("[^"]*"|'[^']*'|[^,]+)(?:,|$)""", rows[0][1:-1]) if len(rows) == 1 and re.fullmatch(r"\[.*\]", rows[0]) else [row[1:] for row in rows if row[:2] == "- " or rows.clear()]
    found = [re.fullmatch(r""" *(?:"([^"\\]*)"|'([^']*)'|([^\s"'\[\]{}#&*!|>%@`,:-](?:(?!: | #|[\[\]{}"',]).)*)) *""", row) for row in rows]
    if not found or not all(found): raise NotJudged("a list that is not written plainly")
    return [next(one for one in match.groups() if one is not None).strip() for match in found]
def part(key, front): return next(iter(re.findall(rf"(?m)^{key}:(.*(?:\n(?: |- ).*)*)", front)), "")
def plainly(config):  # config.yaml without comments; raises where its checks are not a plain key of their own
    bare = re.sub(r"(?m)(^|\s)#.*", "", config)
    if re.search(r"checks|\\", bare) and not re.search(r"(?m)^checks:", bare): raise NotJudged("a config.yaml that is not written plainly")
    return bare
def default(front, plan, config):  # the project's checks, where a step has them: it names none, and is an agent's or asks for QA
    says, found = part("qa", front) or part("qa", plan), part("checks", re.sub(r"(?m)(^|\s)#.*", "", config))
    asks = re.search("light|full", says) or (not re.search(r"skip", says) and not re.search(r"(?m)^kind: *[\"']?(command|tool|human)", front))
    return found if asks and not re.search(r"checks:(?! *\[ *\])", says) and re.sub(r"\s", "", found) not in ("", "[]", "~", "null") else ""
def wanted(front, plan, config):  # what QA looks at: outputs, checks, a review
    says = part("qa", front) or part("qa", plan)
    checks = re.search(r"checks: *(\[.*?\]) *(?=[,}\n]|$)|\n +checks: *((?:\n +- .*)+)", says)
    rest = says.replace(checks[0], "") if checks else says
    if not re.fullmatch(r"[\s{},]*(?:policy:)? *(light|full|skip)?[\s{},]*", rest): raise NotJudged("a QA that is not written plainly")
    named = checks[1] or checks[2] if checks else default(front, plan, plainly(config))
    names = [*(f"outputs: {one[:499] + '…' if len(one) > 500 else one}" for one in (listed(part("outputs", front)) if part("outputs", front) else ())),
             *(one[:499] + "…" if len(one) > 500 else one for one in (listed(named) if named else ()))]
    return names + ["review"] * ("full" in rest)

def checked_by(front, plan, config):  # whether a step has QA
    says = part("qa", front) or part("qa", plan)
    return not re.search("skip", says) and bool(re.search("light|full|checks: *[^ ]", says) or part("outputs", front).strip() not in ("", "[]") or default(front, plan, plainly(config)))

BEGUN = WORK - {"budget-reached"}
def ready(steps, needs): return all(steps.get(one, {}).get("status") in ("completed", "cancelled") for one in needs)
def may_begin(repo, before, name, steps, kind, about):  # a step begins once what it needs is done; that may be undone while it is at work
    now = steps.get(about, {"status": ""})
    if kind not in BEGUN or now["status"] != "pending" or ready(steps, now["needs"]): return True
    for oid in reversed(before):
        files = dict(repo.flat(repo.folder(repo.get(oid)[0], name)))
        try:
            need(files["state.json"][0] != "160000", "no state")
            then = json.loads(repo.get(files["state.json"][1]))["steps"]
            fronts = {match[2]: repo.get(files[path][1]).decode().split("---")[1] for path in sorted(files, key=lambda path: (len(path.partition("-")[0]), path)) if (match := re.fullmatch(r"(\d{2,6})-([a-z0-9-]+)\.md", path))}
            need("plan.md" in files and repo.get(files["plan.md"][1]).lstrip(b"\xef\xbb\xbf")[:3] == b"---", "no plan")
        except (ValueError, LookupError): continue
        was = then.get(about, {"status": "pending", "attempt": 1})
        if about not in fronts or (was["status"], was["attempt"]) != ("pending", now["attempt"]): return False
        says, order = part("needs", fronts[about]).strip(), [*fronts]
        wants = order[:order.index(about)][-1:] if not says else [] if says == "[]" else [re.sub(r"^\d+-", "", one) for one in listed(says)]
        if ready(then, wants): return True
    return False

def taken_back(now, then):  # what an undoing has to say
    told = {}
    for slug, one in now["steps"].items():
        was, owed = then["steps"].get(slug, {}), [[wait["id"] for wait in state["waiting"] if wait["subject"] == slug] for state in (now, then)]
        if one.get("removed") or (owed[0] == owed[1] and (was.get("status"), was.get("attempt")) == (one["status"], one["attempt"])): continue
        status = "pending" if was.get("status") in (None, "running", "awaiting_approval") or was.get("removed") else was["status"]
        again = one["status"] != "pending" and status not in ("completed", "cancelled")
        now_ = {"status": status, "attempt": one["attempt"] + again, "result": was.get("result") if status in ("completed", "cancelled", "needs_qa") else None}
        if any(now_[key] != one.get(key) for key in now_): told[slug] = now_
    kept = {wait["id"] for wait in then["waiting"] if wait["subject"] not in told}
    return {"to": then["revision"], "status": then["status"], "steps": told, "artifacts": [one["id"] for one in now["artifacts"] if one["id"] not in {a["id"] for a in then["artifacts"]}],
            "dropped": [wait["id"] for wait in now["waiting"] if wait["id"] not in kept]}

def fits(glob, path):
    said = "".join({"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}.get(one) or re.escape(one) for one in re.findall(r"\*\*/|\*\*|\*|\?|[^*?]+", glob.rstrip("/")))
    return bool(re.fullmatch(said, path) or path.startswith(glob.rstrip("/") + "/")) and not re.match(r"\.protocols/(?!memory/)", path)

def taken_over(repo, parent, name, f, verify, ours, entries):  # whether what a fork has as done was done at its source, which it stands on
    origin, _, revision = f["source"].partition("@")
    told = ours(repo.get(parent)[2], origin)
    need(re.fullmatch(r"\d{4,9}-[a-z0-9-]+", origin) and origin != name and told and told[2] == revision, f"no fork of {f['source']}")
    notes, own = verify(repo, parent, origin), dict(repo.flat(repo.folder(repo.get(parent)[0], origin)))
    then, left, at = json.loads(repo.get(own["state.json"][1])), set(), {}
    for number, kind, about, told, _ in entries(b"".join(repo.get(own[path][1]) for path in [*sorted(p for p in own if p[:4] == "log/"), "log.md"])):
        works = kind == "step-finished" or (kind in ("asked", "call-held", "effect-unknown") and "transcript" in told and about != "plan")
        left = at[told["to"]] if kind == "undone" else left | {about} if works else left - {about} if kind == "step-completed" else left
        at[number] = left
    done = {slug: step["result"] for slug, step in then["steps"].items() if step["status"] == "completed" and not step.get("removed")}
    need(not left and json.dumps(done, sort_keys=True) == json.dumps(f["done"], sort_keys=True) and f["genesis"] == then["genesis"]
         and all(f["steps"][slug]["digest"] == then["steps"][slug]["digest"] for slug in done), f"not as at {f['source']}: {left}")
    return notes

class Deeds:
    def deed(self, place, base, number, kind, about, f, first):
        """Whether what was done of a step had the words that policy, plan and step want; `first`: the transition's deed, `f` its fields."""
        ground = self.chain.index(f["start"]) if f.get("executor") != "person" and f.get("start") in self.chain else place - 1
        while first in WORK - {"step-finished"} and f.get("kind") != "human" and not self.ours(self.repo.get(self.chain[ground])[2], self.name): ground -= 1
        need(base not in self.chain, f"{number}: the branch's own policy")
        def rules(commit): return {path: one for path, one in self.trusted(commit).items() if re.match(r"(policy\.yaml|allowed_signers|config\.yaml)$|(openpgp|agents)/", path)}
        for before in {tip for tip, there in self.tips if there <= ground} - {base}:
            need(rules(before) == rules(base) or not self.repo.ask("rev-list", "-1", before, f"^{base}"), f"{number}: an older policy")
        own = dict(self.repo.flat(self.repo.folder(self.repo.get(self.chain[ground])[0], self.name)))
        trust = need(ground == place - 1 or "state.json" in own, f"{number}: begun where there was no state") or self.trusted(base)
        text, config = (self.repo.get(trust[one][1]).decode() if one in trust else "" for one in ("policy.yaml", "config.yaml"))
        need(not text or re.search(r"(?m)^repo: *\"?[0-9a-f]{32}", text), f"{number}: a policy that cannot be read")
        fronts = {path.partition("-")[2] or path: self.repo.get(oid).decode().split("---")[1] for path, (_, oid) in own.items() if path == "plan.md" or re.fullmatch(r"\d{2,6}-[a-z0-9-]+\.md", path)}
        need(kind not in ("step-finished", "qa-passed", "step-completed") or about + ".md" in fronts, f"{number}: {about} was no step of the plan")
        def asks(name, when): return re.search(rf"(?m)^approval: *(?:{when}\b|\{{.*{when}|\n +(?:.*\n +)*when: *{when})", fronts.get(name, ""))
        wants = [("plan", "plan")] * bool(asks("plan.md", "before") or re.search(r"(?m)^  plan: *\{.*required: *true", text)) + [("step", about)] * bool(asks(about + ".md", "before"))
        if kind == "step-completed":
            start = self.chain[ground] if first == "step-finished" and f.get("executor") != "person" else self.began.get(about, f.get("start"))
            changed = [p for p in self.repo.changed(self.repo.get(start)[0], self.repo.get(self.chain[place])[0]) if start and GUARDED.search(p) and not p.startswith(self.own)]
            wants += [("result", about)] * bool(asks(about + ".md", "after")) + [("protected-path", about)] * bool(changed and ground == place - 1)
        if kind in ("asked", "call-held", "effect-unknown"):
            brought = self.repo.changed(*(self.repo.get(self.chain[at])[0] for at in (place - 1, place)))
            need(not any(GUARDED.search(p) and not p.startswith(self.own) for p in brought), f"{number}: {kind} of {about}, and nobody looked at what it changed")
        checked = first in ("qa-passed", "qa-failed", "step-completed") or self.steps[about].get("kind") == "human"
        for name, data, _ in self.born if ("plan", "plan") in wants and not checked else ():  # the plan's word is asked for again at each step's start
            if name[:32] in self.said.get("plan", ()):
                who, until = (re.search(rf"(?m)^{key}: (\S+)$", data.decode("latin-1"))[1] for key in ("approver", "expires"))
                need(who in Policy(text, "plan", self.repo.get(trust["allowed_signers"][1]).decode()).people and until > min(f["time"], self.last), f"{number}: the plan's word ended")
        for one in wants:
            there = self.counted.get(one)
            need(there is not None, f"{number}: {kind} of {about}, and nobody asked for a word: {one[0]}")
            for place_, oid in enumerate(self.chain[there + 1:ground + 1], there + 1):
                paths = self.repo.changed(self.repo.get(self.chain[place_ - 1])[0], self.repo.get(oid)[0]) if checked and not self.ours(self.repo.get(oid)[2], self.name) else ()
                need(not any(self.words(path, about) for path in paths), f"{number}: {kind} of {about}, and the word is stale: {one[0]}")
            if not checked and ground > there:
                back = about in self.back and one[0] == "step"
                since = self.chain[self.seen[one] if back else there]
                need(not self.touched(since, self.chain[ground], (one[0], about, about), self.versions[one], base, trust, people=True, whole=back)[0], f"{number}: {kind} of {about}, and the word is stale: {one[0]}")
        need(kind != "step-finished" or (f["executor"] == "person") == (self.steps[about]["kind"] == "human"), f"{number}: {about} is not for {f.get('executor')}")
        if kind == "step-completed" and about not in self.passed and "state.json" in own:  # by the plan at its start, or where it ends
            last = {path.partition("-")[2] or path: self.repo.get(oid).decode().split("---")[1] for path, (_, oid) in self.repo.flat(self.repo.folder(self.repo.get(self.chain[place - 1])[0], self.name)) if path == "plan.md" or re.fullmatch(r"\d{2,6}-[a-z0-9-]+\.md", path)}
            need(not all(about + ".md" in one and checked_by(one[about + ".md"], one["plan.md"], config) for one in (fronts, last)), f"{number}: {about} is completed without its QA")
        if kind == "qa-passed":
            need([one["check"] for one in f["evidence"]] == wanted(fronts[about + ".md"], fronts["plan.md"], config), f"{number}: QA of {about} looked at something else")
            trees = [self.repo.get(self.repo.get(self.chain[place])[1][0])[0], self.repo.get(self.began[about])[0]]
            files = [*(path for path, _ in self.repo.flat(trees[0])), *self.repo.changed(*trees)] if (promised := listed(part("outputs", fronts[about + ".md"])) if part("outputs", fronts[about + ".md"]) else []) else []
            need(all(any(fits(glob, path) for path in files) for glob in promised), f"{number}: QA of {about} passed, and what was promised is not there: {promised}")
        if re.search(r"(?m)^(rules|limits|protected|approval_required|isolation|engines):", text) or "checks" in str(fronts) or "network" in str(fronts) or part("checks", config): raise NotJudged("what more than roles the policy says")

    def makes(self, place, about, attempt):  # whether the `on_failure` of the step that failed just before makes a retry
        files = dict(self.repo.flat(self.repo.folder(self.repo.get(self.chain[place])[0], self.name))) if self.failed else {}
        says = {key: value for path, (_, oid) in files.items() if path.partition("-")[2] == self.failed + ".md" for key, value in
                re.findall(r"(retry|goto|limit): *([\w-]+)", self.repo.get(oid).decode().split("---")[1])}
        first = re.sub(r"^\d+-", "", says.get("goto", self.failed))
        return self.failed and self.steps[first]["place"] <= self.steps[about]["place"] <= self.steps[self.failed]["place"] and attempt <= 1 + int(says.get("limit", 1) if "goto" in says else says.get("retry", 0))
