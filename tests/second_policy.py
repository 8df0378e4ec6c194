"""The second verifier's reading of policy.yaml and allowed_signers, written from docs/design.md §4 and §5; it imports nothing of ours."""

import os, re, subprocess, tempfile
class NotJudged(Exception): pass
def need(holds, why):
    if not holds: raise ValueError(why)

class Policy:
    """A policy.yaml in the form that `runner init` writes: lists and maps of a kind of word on one line."""

    def __init__(self, text, kind, signers):
        part = {name: re.search(rf"(?m)^{name}:[^\n]*\n((?: .*\n|#.*\n|\n)*)", text + "\n") for name in ("roles", "approvals")}
        rows = [re.fullmatch(r"  ([\w-]+): *\[([^\]]*)\] *(#.*)?", line) for line in (part["roles"][1] if part["roles"] else "").splitlines() if re.search(r"\S", line.split("#")[0])]
        if not rows or not all(rows): raise NotJudged("roles that are not written as `role: [people]`")
        roles, agents = {row[1]: re.findall(r"[^\s,\"']+", row[2]) for row in rows}, re.search(r"(?m)^agents: *\[([^\]]*)\]", text)
        if "\nagents:" in text and not agents: raise NotJudged("agents that are not written as [list]")
        told = re.search(rf"(?m)^  {kind}: *(\{{.*\}}) *(#.*)?$", part["approvals"][1]) if part["approvals"] else None
        if part["approvals"] and not told and re.search(rf"(?m)^  {kind}:", part["approvals"][1]): raise NotJudged(f"approvals of {kind} on several lines")
        told = told[1] if told else ""
        named = re.search(r"roles: *(?:\[([^\]]*)\]|([\w-]+))", told)
        self.count, self.agents = int((re.search(r"count: *(\d+)", told) or [0, 1])[1]), re.findall(r"[^\s,\"']+", agents[1]) if agents else []
        self.people = {who for role in (re.findall(r"[\w-]+", named[0])[1:] if named else roles) for who in roles.get(role, ())}
        lasts, unit = next(iter(re.findall(r"expires: *\"?(\d+)([smhd])", told)), ("24" if kind == "call" else "168", "h"))
        self.lasts = min(int(lasts) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[unit], (24 if kind == "call" else 720) * 3600)
        self.reviewers, self.reviews = self.people - {*self.agents}, "review" in told if "from:" in told else kind != "call"
        if "from:" in told and "signed" not in told: self.people = set()
        self.accounts = {(host, number): who for host, all in re.findall(r"\"?([\w.:-]+)\"?: *\{([^{}]*)\}", next(iter(re.findall(r"(?m)^forge: *\{(.*)\}", text)), ""))
                         for who, number in re.findall(r"([\w.+@-]+): *(\d+)", all)}
        self.people, self.everybody = self.people - {*self.agents}, {who for one in roles.values() for who in one} - {*self.agents}
        self.repo, self.own_work = re.search(r"(?m)^repo: *\"?([0-9a-f]{32})", text)[1], (re.search(r"(?m)^own_work: *(\w+)", text) or [0, "refuse"])[1]
        lines = [line for line in signers.splitlines() if line.strip() and not line.startswith("#")]
        found = [re.fullmatch(r'([a-z0-9][\w.+@-]*) +namespaces="([^"]*)"\S* +\S+ +(\S+).*', line) for line in lines]
        need(all(found) and len({one[3] for one in found}) == len(found), "allowed_signers: a line without namespaces, or a key that is listed twice")
        need(not any("runner-approval" in one[2] for one in found if one[1] in self.agents), "an agent's key is listed for approvals")
        self.signers, self.keys = signers, {}
        for one in found: self.keys.setdefault(one[1], []).append(one[3])
def signed(word, signers, revoked, time):
    """Whether ssh-keygen says so, at a time; a key that is revoked now never was good."""
    with tempfile.TemporaryDirectory() as at:
        keys = "".join(" ".join(line.split()[:2]) + "\n" for line in revoked.splitlines() if line.strip() and line[0] != "#")
        for name, text in (("signers", signers), ("revoked", keys), ("armour", word["armour"])):
            with open(os.path.join(at, name), "w") as file: file.write(text)
        argv = ["ssh-keygen", "-Y", "verify", "-f", "signers", "-r", "revoked", "-s", "armour", "-I", word["approver"], "-n", "runner-approval",
                "-Overify-time=" + re.sub(r"\D", "", time) + "Z"]
        done = subprocess.run(argv, cwd=at, env={"PATH": os.environ["PATH"], "TZ": "UTC"}, input=word["text"].encode(), capture_output=True)
    return done.returncode == 0 and done.stdout.decode().startswith(f'Good "runner-approval" signature for {word["approver"]} with ')
