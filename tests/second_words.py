"""The second verifier's judge of words, written from docs/design.md §4 and §5: whether each event that used words had them.

It reads with git, judges signatures with `ssh-keygen -Y verify` alone, and imports nothing of ours. What it cannot judge (OpenPGP, a
policy that is not in the plain form, `own_work: signed`, what a step asks for beyond the policy) it says, and does not pass over.
"""

import base64, datetime, hashlib, re
from second_cover import Cover, OLD_UNTIL
from second_deeds import DEEDS, PREFIX, WORK, Deeds, sound, default as default, may_begin as may_begin, taken_back as taken_back, taken_over as taken_over
from second_policy import NotJudged, Policy, need, signed
FIELDS = "repo protocol genesis subject attempt digest policy seen decision approver issued expires nonce reason".split()
WORD = re.compile("(?P<text>runner-approval/v1\n" + "".join(rf"{name}: (?P<{name}>[ -~]*)\n" for name in FIELDS) + ")"
                  r"(?P<armour>-----BEGIN SSH SIGNATURE-----\n(?:[A-Za-z0-9+/=]{1,76}\n)+-----END SSH SIGNATURE-----\n)")
def sha(data): return "sha256:" + hashlib.sha256(data).hexdigest()
def seconds(time): return datetime.datetime.strptime(time, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=datetime.UTC).timestamp()

class Court(Deeds, Cover):
    """One protocol's chain, looked at from genesis on. `ours(message)`: a transition's trailers; `recorded`: its entries."""
    def __init__(self, repo, chain, name, ours, recorded):
        self.repo, self.chain, self.name, self.ours, self.recorded = repo, chain, name, ours, recorded
        self.own, self.steps, self.waits, self.used, self.began, self.first, self.notes = f".protocols/{name}/", {}, {}, set(), {}, {}, []
        self.tips, self.genesis, self.born = [], "", []  # (the trusted commit that a transition names, its place); (id, data, place)
        self.versions, self.seen, self.back = {}, {}, set()  # of words, by id, and by (kind, step): by which rules, what was seen; steps that another's failure brought back
        self.counted, self.said, self.asked, self.heard, self.last, self.failed, self.passed = {}, {}, {}, set(), "", "", set()  # (kind, step or plan): the place of the transition that counted a word on it
        self.record = re.compile(re.escape(self.own) + r"(state\.json|log\.md|(log|calls|reports|approvals)/.*)")

    def judge(self):
        for place, oid in enumerate(self.chain):
            tree, parents, message, *_ = self.repo.get(oid)
            was = dict(self.repo.flat(self.repo.folder(self.repo.get(parents[0])[0], self.name))) if parents else {}
            new = {p: e for p, e in self.repo.flat(self.repo.folder(tree, self.name)) if p[:10] == "approvals/" and p not in was}
            alone = all(path.startswith(self.own + "approvals/") for path in self.repo.changed(self.repo.get(parents[0])[0], tree)) if new else 0
            self.born += [(p[10:], self.repo.get(oid) if mode == "100644" and alone else b"", place) for p, (mode, oid) in sorted(new.items())]
            try: wants = "policy.yaml" in (trust := self.trusted(told[4])) and re.search(rb"(?m)^transitions: *signed", self.repo.get(trust["policy.yaml"][1])) if (told := self.ours(message, self.name)) else None
            except BrokenPipeError: wants = None
            self.notes += ["signatures of transitions"] if wants and self.notes[-1:] != ["signatures of transitions"] else []
            need(sound(self.repo, oid), f"{oid[:12]}: a bad signature")
            now = {(p, e) for p, e in self.repo.flat(self.repo.folder(tree, self.name)) if p[:10] == "approvals/"}
            for brought in self.repo.ask("rev-list", oid, f"^{parents[0]}").split() if len(parents) > 1 else ():  # a merge has every word that it brought
                root, above, *_ = self.repo.get(brought)
                said = {(p, e) for p, e in self.repo.flat(self.repo.folder(root, self.name)) if p[:10] == "approvals/"}
                need(said <= now and all(self.repo.get(one) for one in above), f"{oid[:12]}: a merge left out a word")
            told_of = self.recorded[oid] if (told := self.ours(message, self.name)) else []
            for number, kind, about, f, _ in told_of:
                if kind in ("approval-counted", "call-decided"):
                    try: self.event(place, told[4], number, kind, about, f, {one[1]: one[3].get("start") for one in told_of if one[1] in WORK})
                    except NotJudged as why: self.notes.append(f"{number} {kind}: {why}")
                    self.used |= set(f["approvals"])
                    one = (self.waits.get(f["wait"], ("", ""))[0], about)
                    self.counted[one], self.said[about], told_ = place, f["approvals"], [self.versions[name] for name in [*f["approvals"], *map(str, f.get("reviews", []))] if name in self.versions]
                    self.versions[one], self.seen[one], self.back = min((v for v, _ in told_), default=1), min((at for _, at in told_), default=place), self.back - {about}
                deeds = [one for one in told_of if one[1] not in PREFIX][:1] if about in self.steps and kind in DEEDS else []
                if deeds and (deeds[0][0] == number or kind == "step-completed") and not (kind == "call-held" and "transcript" not in f):
                    try: self.deed(place, told[4], number, kind, about, deeds[0][3], deeds[0][1])
                    except NotJudged as why: self.notes.append(f"{number} {kind}: {why}")
                self.fold(place, number, kind, about, f)
            self.tips, self.last = ([*self.tips, (told[4], place)], told_of[-1][3]["time"]) if told else (self.tips, self.last)
        return self.notes

    def fold(self, place, number, kind, about, f):
        step, ends = self.steps.get(about, {}), {"answered": ("human", "question"), "effect-decided": ("effect",), "approval-refused": ("word",)}.get(kind)
        need(not ends or "wait" not in f or self.asked.get(f["wait"], ("word", self.waits.get(f["wait"], ("", ""))[1])) in [(one, about) for one in ends], f"{number}: {kind} ends what waits for something else")
        need(kind != "step-finished" or f["executor"] != "person" or about in self.heard, f"{number}: {about} by a person, and nobody was asked and answered")
        self.heard = self.heard | {about} if kind == "answered" and f["wait"] in self.asked else self.heard - ({about} if kind == "step-retried" else {*f.get("removed", ()), *(f["steps"] if kind == "undone" else ())})
        self.asked = {w: one for w, one in self.asked.items() if one[1] not in ({about} if kind == "step-retried" else f["steps"] if kind == "undone" else f.get("removed", ()))}
        if kind in ("qa-passed", "qa-failed", "step-retried", "undone", "plan-edited"): self.passed = self.passed | {about} if kind == "qa-passed" else self.passed - {about, *(slug for slug in f.get("steps", ()) if kind == "undone" or self.steps.get(slug, {}).get("status") != "completed")}
        if kind == "created": self.genesis = sha(f["nonce"].encode())
        elif kind in ("planned", "imported", "forked", "plan-edited"):
            for slug, one in f["steps"].items():
                self.steps[slug] = {"attempt": 1, "status": "completed" if slug in f.get("done", {}) else "pending", **self.steps.get(slug, {}), "kind": one["kind"], "place": one["place"]}
            for slug in f.get("removed", []): self.steps[slug]["status"] = "cancelled"
        elif kind in ("approval-asked", "call-held"): self.waits[f"w{number}"] = (f.get("kind", "call"), about, f.get("call", about), place, f["digest"])
        elif kind in ("asked", "effect-unknown"): self.asked[f"w{number}"] = (f.get("kind", "effect"), about)
        elif kind == "step-finished": step["status"], self.began[about] = "needs_qa", self.first.pop(about, f["start"] if f["start"] in self.chain else self.chain[place - 1])
        elif kind in ("step-completed", "step-cancelled"): step["status"] = kind[5:]
        elif kind == "step-retried": self.first.pop(about, step.update(attempt=f["attempt"], status="pending"))
        if kind == "step-retried" and not self.makes(place, about, f["attempt"]): self.counted.pop(("step", about), None)
        self.failed = about if kind == "step-failed" else self.failed if kind == "step-retried" else ""
        if kind == "step-retried" and self.failed != about: self.back.add(about)
        if kind in ("undone", "plan-edited"): self.counted = {k: v for k, v in self.counted.items() if k[0] != "step" or (kind == "undone" and f["steps"].get(k[1], self.steps[k[1]])["status"] == "needs_qa") or (kind != "undone" and (k[1] not in f["steps"] or self.versions[k] > 1))}
        if kind == "step-finished": self.counted = {k: v for k, v in self.counted.items() if k not in (("result", about), ("protected-path", about))}
        if kind == "undone": [self.first.pop(slug, self.steps[slug].update(one)) for slug, one in f["steps"].items()]
        if kind in ("asked", "call-held", "effect-unknown") and step.get("kind") == "agent": self.first.setdefault(about, self.chain[place - 1])
        for wait in [f.get("wait"), *f.get("dropped", [])]: self.waits.pop(wait, None)
        if kind in ("step-failed", "step-blocked", "step-cancelled"): self.waits = {w: one for w, one in self.waits.items() if one[1] != about}

    def trusted(self, commit):  # the files below .protocols of one of its commits
        mode, tree = self.repo.get(self.repo.get(commit)[0]).get(".protocols", ("", None))
        return dict(self.repo.flat(tree)) if mode == "40000" else {}

    def event(self, place, base, number, kind, about, f, deed):  # `deed`: whether work that it began on ends in the same commit
        at = f.get("at", self.chain[place - 1])
        need(at in self.chain[:place] and base not in self.chain and (at == self.chain[place - 1] or deed), f"{number}: judged nowhere, or by the branch's own policy")
        end, trust = self.chain.index(at), self.trusted(base)
        need(kind != "approval-counted" or "at" not in f or deed.get("step-finished", at) == at, f"{number}: judged elsewhere than the work began")
        own = dict(self.repo.flat(self.repo.folder(self.repo.get(at)[0], self.name)))
        need(self.repo.get(own["plan.md"][1]).lstrip(b"\xef\xbb\xbf").startswith(b"---") and "state.json" in own, f"{number}: no plan, or no state, to judge it by")
        for before in {tip for tip, there in self.tips if there <= end} - {base}:
            need(self.repo.get(before) and not self.repo.ask("rev-list", "-1", before, f"^{base}"), f"{number}: an older policy")
        wait, by = self.waits.get(f["wait"]), f["by"] if isinstance(f["by"], list) else f["by"].split(", ")
        need(wait and wait[1] == about and (wait[0] == "call") == (kind == "call-decided"), f"{number}: no such wait")
        if by == ["keyboard"]:
            policies = [self.trusted(tip) for tip in {base, *(tip for tip, there in self.tips if there <= end)}]
            need(not f["approvals"] and not any("policy.yaml" in one for one in policies), f"{number}: a keyboard, and a policy")
            return
        need("policy.yaml" in trust and ("allowed_signers" in trust or f.get("reviews")), f"{number}: nobody's word counts")
        text, signers = (self.repo.get(trust[path][1]).decode() if path in trust else "" for path in ("policy.yaml", "allowed_signers"))
        policy, subject = Policy(text, "step" if wait[0] == "result" else wait[0], signers), wait[0] if about in ("plan", self.name) else f"{wait[0]}:{wait[2]}"
        need(wait[0] != "plan" or re.search(r"(?m)^approval:", self.repo.get(own["plan.md"][1]).decode()) or re.search(r"(?m)^  plan: *\{.*required: *true", text), f"{number}: nobody wanted a word on the plan")
        if wait[0] == "step" and re.search(r"deny:", text): raise NotJudged("rules that deny")
        attempt = 0 if wait[0] in ("plan", "merge", "step") else self.steps[about]["attempt"] if wait[0] != "call" else int(wait[2].split(".")[1])
        more, last = self.asks_more(at, wait[0], about), {}  # with roles of the step's own, whoever is in any
        policy.people, issued, no = policy.everybody if more else policy.people, {}, {}
        for name, data, there in sorted((one for one in self.born if one[2] <= end), key=lambda one: (one[2], one[0])):
            if b"BEGIN PGP" in data: raise NotJudged("an OpenPGP signature")
            word = WORD.fullmatch(data.decode("latin-1")) if len(data) <= 8192 else None
            if not word or (word["subject"], word["attempt"]) != (subject, str(attempt)) or not (how := self.counts(word, name, there, at, base, trust, policy, f, wait)): continue
            who, decision = word["approver"], word["decision"] if how == "now" else "over"  # one that is over ends the person's earlier ones, if it is younger
            frees = decision in ("over", "approve") or (decision == "revoke" and last.get(who, "  ")[1] == "reject")
            if frees and word["issued"] < max(no.get(who, ""), issued.get(who, "") if decision == "over" else ""): continue
            last[who], issued[who] = (name[:32], decision), word["issued"]
            if decision in ("reject", "revoke"): no[who] = max(no.get(who, ""), word["issued"])  # no older approval counts after it
        if more:
            need({*f["approvals"]} <= {one for one, what in last.values() if what != "over"}, f"{number}: words that do not count")
            raise NotJudged("the step or plan asks for more than the policy")
        said = {decision: [(one, who) for who, (one, what) in last.items() if what == decision] for decision in ("approve", "reject")}
        meant = "reject" if f.get("decision") == "rejected" else "approve"
        found = sorted(said[meant], key=lambda one: [name[:32] for name, _, _ in self.born].index(one[0]))
        reviews = [self.review(one, subject, attempt, at, base, trust, policy, wait) for one in f.get("reviews", [])]
        right = (meant == "reject" or not said["reject"]) and [one for one, _ in found] == f["approvals"] and [who for _, who in found] + reviews == by
        need(right and len({*by}) == len(by) >= (policy.count if meant == "approve" else 1), f"{number}: {kind} of {policy.count}, without its words: {last}")

    def review(self, one, subject, attempt, at, base, trust, policy, wait):
        """Whose review it is, by the policy; the forge alone knows that it was given. It is of what was asked about, and since then."""
        place, who = (self.chain.index(one["commit"]) if one["commit"] in self.chain else -1), policy.accounts.get((one["host"], str(one["user"])))
        word = {"subject": subject, "attempt": str(attempt), "approver": who}
        need(policy.reviews and who in policy.reviewers and wait[3] <= place <= self.chain.index(at), f"{one}: it does not count")
        version = self.version(wait[4], word, one["commit"], base, trust) if wait[0] != "call" else 3
        changed, kept = self.touched(one["commit"], at, wait, version or 3, base, trust)
        need(version and not changed, f"{one}: stale, or of something else")
        need(wait[0] in ("call", "plan") or kept or self.digest(word, at, base, trust, version) == wait[4], f"{one}: of something else")
        self.versions[str(one)] = version, place
        need(policy.own_work == "allow" or not self.wrote(word, at, base, policy, wait), f"{one}: own work")
        return who

    def asks_more(self, at, kind, about):  # people of its own; a front matter is not read further than that
        own = [oid for path, (_, oid) in self.repo.flat(self.repo.folder(self.repo.get(at)[0], self.name)) if (path == "plan.md" and kind == "plan") or path.partition("-")[2] == about + ".md"]
        return any(re.search(r"(?m)^approval:(?! (before|after|none)\s*(#.*)?$)", self.repo.get(oid).decode()) for oid in own)

    def counts(self, word, name, there, at, base, trust, policy, f, wait):
        """Whether a word counts for the wait, at the time that the event's entry tells: "now", "over" (it did or could have), or not."""
        now, seen = seconds(f["time"]), word["seen"]
        if name != sha(word["text"].encode())[7:39] + ".approval" or seen not in self.chain[:there]: return False
        if (word["repo"], word["protocol"], word["genesis"]) != (policy.repo, self.name, self.genesis): return False
        issued, expires = seconds(word["issued"]), seconds(word["expires"])
        if not (issued <= now + 300 and issued < expires <= issued + (1 if wait[0] == "call" else 30) * 86400) or word["approver"] not in policy.people: return False
        over = (name[:32] in self.used and wait[0] in ("step", "call")) or (word["decision"] == "approve" and not now < expires <= issued + policy.lasts)
        revoked = self.repo.get(trust["revoked_keys"][1]).decode() if "revoked_keys" in trust else ""
        times = [f["time"]] + ([min(f["time"], word["issued"])] if word["decision"] != "approve" else [])  # a key's end ends no rejection
        if not any(signed(word, policy.signers, revoked, time) for time in times): return False
        version = self.version(word["digest"], word, seen, base, trust)
        if not version or (version < 3 and issued >= OLD_UNTIL): return False
        changed, kept = self.touched(seen, at, wait, version, base, trust)
        if changed or (wait[0] != "plan" and not kept and word["digest"] != self.digest(word, at, base, trust, version)): return False
        if policy.own_work != "allow" and word["decision"] == "approve" and self.wrote(word, at, base, policy, wait): return False
        self.versions[name[:32]] = version, self.chain.index(seen)
        return "over" if over else "now"

    def wrote(self, word, at, base, policy, wait):  # as author, committer or by the key of a commit's signature
        def bare(path): return re.sub(r"/\d{2,6}-(?=[a-z0-9-]+\.md$)", "/-", path)  # a step is its slug, whatever its number was
        files = set() if wait[0] == "call" else {bare(path) for path, _ in self.repo.flat(self.repo.get(at)[0]) if self.words(path, wait[1] if wait[1] in self.steps else None)
                 or (wait[0] == "merge" and re.fullmatch(re.escape(self.own) + r"[\w-]+\.md", path) and not path.endswith("/log.md"))}
        told = self.repo.ask("log", "--full-history", "-c", "--no-renames", "--format=%x01%H", "--name-only", at, f"^{self.repo.get(self.chain[0])[1][0]}", "--", self.own)
        merged = self.repo.ask("log", "--first-parent", "-m", "--merges", "--no-renames", "--format=", "--name-only", at, f"^{self.repo.get(self.chain[0])[1][0]}", "--", self.own).split()
        told += self.repo.ask("log", "--full-history", "-c", "--no-renames", "--format=%x01%H", "--name-only", at, "--", *merged) if merged else ""  # what main once had
        found = {block.split("\n")[0] for block in told.split("\x01")[1:] if files & {*map(bare, block.split("\n")[1:])}}
        if wait[0] in ("result", "protected-path"):
            for oid in self.repo.ask("rev-list", at, f"^{self.began[wait[1]]}", f"^{base}").split():
                sides = [set(self.repo.changed(self.repo.get(parent)[0], self.repo.get(oid)[0])) for parent in self.repo.get(oid)[1]]
                if not self.ours(self.repo.get(oid)[2]) and any(not self.record.fullmatch(path) for path in set.intersection(*sides)): found.add(oid)
        for oid in found:
            raw = self.repo.ask("cat-file", "commit", oid)
            if policy.own_work == "signed": raise NotJudged("own_work: signed")
            if word["approver"] in [one.lower() for one in re.findall(r"(?m)^(?:author|committer) .*<([^>]*)> ", raw.partition("\n\n")[0])]: return True
            armour = re.search(r"gpgsig(?:-sha256)? -----BEGIN SSH SIGNATURE-----\n(.*?) -----END", raw, re.DOTALL)
            if armour and any(base64.b64decode(key) in base64.b64decode(re.sub(r"\s", "", armour[1])) for key in policy.keys.get(word["approver"], ())): return True
        return False
