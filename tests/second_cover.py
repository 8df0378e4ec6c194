"""The second verifier's reading of what a word covers, written from docs/design.md §4: manifests of version 3, and 2 and 1 for words of before."""

import hashlib, json, os, re, shutil, subprocess, tempfile
from second_deeds import GUARDED, default, fits, listed, part
from second_policy import NotJudged
ENDED, OLD_UNTIL = ("completed", "cancelled"), 1798761600
HARMLESS = ["README*", "CHANGELOG*", "LICENSE*"]
def sha(data): return "sha256:" + hashlib.sha256(data).hexdigest()
def plain(*entries): return all(one in (None, "100644") for one in entries)

class Cover:
    def covers(self, path, wait):  # by version 1
        return path == f"{self.own}calls/{wait[2]}.json" if wait[0] == "call" else bool(self.words(path)) if wait[0] == "plan" else not self.record.fullmatch(path)
    def words(self, path, slug=None):  # the plan, the context or a step that is not done; with `slug`, that step
        match = re.fullmatch(re.escape(self.own) + r"(?:plan|context|\d{2,6}-(?P<slug>[a-z0-9-]+))\.md", path)
        return match and (not match["slug"] or (match["slug"] == slug if slug else self.steps.get(match["slug"], {}).get("status") not in ENDED))
    def mode(self, tree, path):
        for name in path.split("/"):
            mode, tree = self.repo.get(tree).get(name, (None, None)) if tree else (None, None)
        return mode

    def left_out(self, commit, slug, base, trust):
        """What a word on a step's start leaves out: (a later step's file, a harmless one, the lines that say so, whether the base is kept)."""
        own = {path[len(self.own):]: oid for path, (_, oid) in self.repo.flat(self.repo.get(commit)[0]) if path.startswith(self.own) and "/" not in path[len(self.own):]}
        number = {name: int(name.partition("-")[0]) for name in own if re.fullmatch(r"\d{2,6}-[a-z0-9-]+\.md", name)}
        mine = next((name for name in number if name.partition("-")[2] == slug + ".md"), None)
        if mine is None: return (lambda path: False), (lambda path, at: False), "", False
        policy, config = (self.repo.get(trust[name][1]).decode() if name in trust else "" for name in ("policy.yaml", "config.yaml"))
        says = part("approvals", policy)
        if re.match(r" *\{.*\b(ignore|base)\b", says): raise NotJudged("exceptions that are not written a line each")
        ignore = re.search(r"(?m)^  ignore: *(\[.*?\]|[^\s\[#]+) *(?:#.*)?$|^  ignore:((?:\n +- .*)+)", says)
        if "ignore:" in says and not ignore: raise NotJudged("exceptions that are not written plainly")
        globs = listed(ignore[1] if (ignore[1] or "")[:1] == "[" else ignore[2] or f"[{ignore[1]}]") if ignore else []
        globs += HARMLESS * (self.steps[slug]["kind"] in ("command", "human") and not re.search(r"(?m)^executor: *[\"']?host", config))
        keep, agents = bool(re.search(r"(?m)^  base: *keep\b", says)), re.search(r"(?m)^agents: *\[([^\]]*)\]", policy)
        self.agents = {one.lower() for one in re.findall(r"[^\s,\"']+", agents[1])} if agents else set()
        fronts = {name: self.repo.get(oid).decode("utf-8", "replace").split("\n---")[0] for name, oid in own.items() if name in number or name == "plan.md"}
        text = "\n".join([self.repo.get(own[mine]).decode("utf-8", "replace"), *((part("qa", fronts[name]) or part("qa", fronts["plan.md"])) + default(fronts[name], fronts["plan.md"], config) for name in number if number[name] <= number[mine])]).lower()
        found = set(re.findall(r"[\w.*?/@+-]+", text))
        words = {re.sub(r"[./]+$", "", one.removeprefix("./")) for one in found}
        words = (words | {one.rpartition("/")[2] for one in words}) - {""}
        def named(path):
            parts = path.split("/")
            above = {"/".join(parts[:count + 1]) for count in range(len(parts))} | {parts[-1].split(".")[0]}
            return bool(not re.fullmatch(r"[\w./@+-]+", path) or any(one.endswith(parts[-1]) for one in words) or found & {".", "./", "..", "../", "*", "**"} or words & above or any(set(one) & {*"*?"} and (fits(one, path) or fits(one, parts[-1])) for one in words))
        guarded = listed(part("protected", policy)) if part("protected", policy) else []
        def harmless(path, at):
            low = path.lower()
            return (any(fits(one, path) and not (one in HARMLESS and "/" in path) for one in globs) and not re.match(r"\.protocols(/|$)", low) and not GUARDED.search(path)
                    and not any(fits(one.lower(), low) for one in guarded) and not named(low) and path not in self.worked(at))
        def later(path): return path.startswith(self.own) and number_of(path[len(self.own):]) > number[mine]
        def number_of(name): return int(name.partition("-")[0]) if re.fullmatch(r"\d{2,6}-[a-z0-9-]+\.md", name) else -1
        return later, harmless, "".join(f"ignore {json.dumps(one)}\n" for one in sorted(globs)) + "base keep\n" * keep, keep

    def worked(self, commit):  # what a transition wrote outside the folder, up to a commit
        if not hasattr(self, "_worked"): self._worked = [set()]
        for place in range(len(self._worked), self.chain.index(commit) + 1):
            tree, parents, message, *_ = self.repo.get(self.chain[place])
            new = {path for path in self.repo.changed(self.repo.get(parents[0])[0], tree) if not path.startswith(self.own)} if self.ours(message, self.name) else set()
            self._worked.append(self._worked[-1] | new)
        return self._worked[self.chain.index(commit)]

    def kept(self, oid, base):  # git's own merge of a commit that the trusted branch was at, which leaves the folder alone
        tree, parents, message, *_ = self.repo.get(oid)
        if len(parents) != 2 or self.ours(message, self.name) or any(path.startswith(self.own) for path in self.repo.changed(self.repo.get(parents[0])[0], tree)): return False
        if parents[1] not in self.repo.ask("rev-list", "--first-parent", base).split(): return False
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run(["git", "init", "-q", "--bare", f"--object-format={'sha256' if len(oid) == 64 else 'sha1'}", folder], check=True, env={"PATH": os.environ["PATH"], "GIT_CONFIG_GLOBAL": os.devnull})
            shutil.rmtree(os.path.join(folder, "info"), ignore_errors=True)
            with open(os.path.join(folder, "objects/info/alternates"), "w") as file: file.write(self.repo.argv[1].partition("=")[2] + "/objects\n")
            done = subprocess.run(["git", f"--git-dir={folder}", "merge-tree", "--write-tree", "--no-messages", *parents], capture_output=True, text=True, env={"PATH": os.environ["PATH"], "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1", "GIT_ATTR_NOSYSTEM": "1"})
        return done.returncode == 0 and done.stdout.strip() == tree

    def touched(self, seen, at, wait, version, base, trust, people=False, whole=False):
        """Whether a commit after `seen`, up to `at`, touched what a word covers, and whether a merge of the base was kept."""
        kept, out = False, self.left_out(seen, wait[1], base, trust) if version > 1 and wait[0] == "step" else None
        for oid in self.chain[self.chain.index(seen) + 1:self.chain.index(at) + 1]:
            did = self.ours(self.repo.get(oid)[2], self.name)
            if people and did: continue
            if out and out[3] and self.kept(oid, base):
                kept = True
                continue
            if not self.free(oid, oid, wait, out, whole): return True, kept
            last = next((one for one in reversed(self.chain[:self.chain.index(oid)]) if self.ours(self.repo.get(one)[2], self.name)), oid)
            if out and did and self.results(last, wait[1]) != self.results(oid, wait[1]): return True, kept
        return False, kept

    def free(self, oid, place, wait, out, whole):  # whether a commit changes nothing that a word covers; a merge of two as each commit that it brought; `place`: of the chain
        tree, parents, message, *_ = self.repo.get(oid)
        if oid != place and (len(parents) not in (1, 2) or self.ours(message)): return False
        was, by = self.repo.get(parents[0])[0], set()
        if out: by = {one.lower() for one in re.findall(r"(?m)^(?:author|committer) .*<([^>]*)> ", self.repo.ask("cat-file", "commit", oid).partition("\n\n")[0])}
        def left(path):
            if out[0](path): return not whole
            brought = self.repo.ask("rev-list", oid, f"^{parents[0]}").split() if oid == place and len(parents) == 2 else []
            return (not self.ours(message, self.name) and not by & self.agents and out[1](path, place) and (oid != place or len(parents) < 3)
                    and all(self.free(one, place, wait, out, whole) for one in brought if one != oid))
        return all(not self.covers(path, wait) or (out and plain(self.mode(was, path), self.mode(tree, path)) and left(path)) for path in self.repo.changed(was, tree))

    def results(self, commit, slug):
        own = dict(self.repo.flat(self.repo.folder(self.repo.get(commit)[0], self.name)))
        steps = json.loads(self.repo.get(own["state.json"][1]))["steps"]
        return "".join(f"{sha(json.dumps(one['result'], sort_keys=True).encode())} {json.dumps(name)}\n" for name, one in sorted(steps.items()) if name != slug and one["status"] == "completed" and one["result"] is not None)

    def version(self, digest, word, seen, base, trust):  # None where it is of something else, or what was seen has no record
        for one in (3, 2, 1):
            try:
                if digest == self.digest(word, seen, base, trust, one): return one
            except (KeyError, json.JSONDecodeError): pass
    def digest(self, word, commit, base, trust, version):
        kind, _, what = word["subject"].partition(":")
        slug, files = what.partition(".")[0], dict(self.repo.flat(self.repo.get(commit)[0]))
        code = {path: entry for path, entry in files.items() if not self.record.fullmatch(path)}
        parts, more = {"tree": code}, {}
        if kind == "plan": parts = {"words": {path: entry for path, entry in code.items() if self.words(path)}}
        if kind == "call": parts = {"call": {path: entry for path, entry in files.items() if path == f"{self.own}calls/{what}.json"}}
        if kind in ("result", "protected-path"):
            was = {path: e for path, e in self.repo.flat(self.repo.get(self.began[slug])[0]) if not self.record.fullmatch(path)}
            same = {path for path, entry in code.items() if was.get(path) == entry} if kind == "protected-path" else ()
            parts = {title: {p: e for p, e in side.items() if p not in same} for title, side in (("before", was), ("after", code))}
        if kind == "step" and version > 1:
            later, harmless, more["exceptions"], _ = self.left_out(commit, slug, base, trust)
            parts = {"tree": {path: e for path, e in code.items() if not (e[0] == "100644" and (later(path) or harmless(path, commit)))}, "inputs": {}, "exceptions": {}}
            more["inputs"] = self.results(commit, slug)
        if kind in ("plan", "step", "call"):
            slugs = {slug} if slug else {s for s, one in self.steps.items() if one["status"] not in ENDED}
            parts["trusted"] = self.lent(code, base, trust, slugs, version, kind)
            if version > 1: parts["tools"], more["tools"] = {}, self.tools(trust, slugs)
        def line(path, mode, oid): return f"{mode} {oid} 0 {json.dumps(path)}" if mode == "160000" else f"{mode} {sha(self.repo.get(oid))[7:]} {len(self.repo.get(oid))} {json.dumps(path)}"
        lines = [f"runner-manifest/v{version}", f"subject: {word['subject']}", f"attempt: {word['attempt']}"]
        for title, of in parts.items(): lines += [f"[{title}]", *(line(path, *of[path]) for path in sorted(of, key=os.fsencode)), *more.get(title, "").split("\n")[:-1]]
        return sha(("\n".join(lines) + "\n").encode())

    def tools(self, trust, slugs):  # the entries of config.yaml, as JSON
        text = self.repo.get(trust["config.yaml"][1]).decode() if "config.yaml" in trust else ""
        if not {self.steps[slug]["kind"] for slug in slugs} & {"agent", "tool"}: return ""
        told = []
        if re.sub(r"#.*", "", part("tools", text)).strip()[:1] not in ("", "-"): raise NotJudged("tools that are not written plainly")
        for entry in re.split(r"\n *- ", part("tools", text))[1:]:
            rows = [re.fullmatch(r" *(module|effects|env|network): *([^#]*?) *", row) for row in entry.split("\n") if row.strip()]
            if not all(rows): raise NotJudged("tools that are not written plainly")
            try: one = {row[1]: json.loads(re.sub(r"[\w.*/-]+", r'"\g<0>"', re.sub("[\"']", "", row[2]))) for row in rows}
            except ValueError: raise NotJudged("tools that are not written plainly") from None
            told.append({key: value for key, value in one.items() if value})
        python = re.search(r"\bpython: *[\"']?([^\s\"',}]+)", part("workspace", text))
        return "".join(json.dumps(one, sort_keys=True) + "\n" for one in [*told, *([{"python": python[1]}] if python else [])])

    def lent(self, code, base, trust, slugs, version, kind):  # the trusted branch's coworkers, instructions to models, memory, tools' code
        kinds = {self.steps[slug]["kind"] for slug in slugs} & {"agent", "tool"}
        fronts = {path: self.repo.get(oid).decode().split("---")[1] for path, (_, oid) in code.items() if self.words(path) and "context.md" not in path}
        plan = re.findall(r"(?m)^agent: *([\w-]+)", fronts[self.own + "plan.md"])
        named = [re.findall(r"(?m)^agent: *([\w-]+)", text) or plan for path, text in fronts.items() for slug in slugs
                 if path.endswith(f"-{slug}.md") and self.words(path, slug) and self.steps[slug]["kind"] in ("agent", "tool")]
        coworkers = {f"agents/{name}.yaml" for names in named for name in names} & trust.keys()
        config = {"config.yaml"} & trust.keys() if kinds else set()
        roots = {one.partition(".")[0] for path in coworkers | config for one in re.findall(r"module: *[\"']?([\w.]+)", self.repo.get(trust[path][1]).decode())}
        files, asks = dict(self.repo.flat(self.repo.get(base)[0])), "agent" in kinds and not (version > 1 and kind == "call")
        beside, imported = set(), (".py", ".pyc", ".so", ".pyd")
        if roots and version > 1:
            odd = {path.partition("/")[0] for path, (mode, _) in files.items() if mode in ("120000", "160000")}
            tops = {top for top in {path.partition("/")[0] for path in files if path.endswith(imported)} | odd if top.endswith(imported) or top.isidentifier()}
            beside = {path for path in files if tops & odd or path.partition("/")[0] in tops}
        return {path: entry for path, entry in files.items() if (path[11:] in coworkers and path[:11] == ".protocols/")
                or (asks and ((path in ("AGENTS.md", "CONTRIBUTING.md") if version < 3 else re.fullmatch(r"(?!\.protocols/)(.*/)?(AGENTS|CLAUDE|GEMINI)\.md", path, re.DOTALL)) or (version > 1 and path.startswith(".protocols/memory/")))) or path.partition("/")[0] in roots or path.removesuffix(".py") in roots or path in beside}
