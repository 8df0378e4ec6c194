"""`runner doctor --forge`: what the real settings mean, each said before it fails."""

from __future__ import annotations

import pytest

from tests.forge.gitlab_fake import PROTECTED, like
from tests.forge.journey import TOKEN, Town


def test_nothing_is_wrong_where_all_is_set(place: Town) -> None:
    place.fake.protected.append(like(PROTECTED, name="main"))
    place.fake.project |= {"only_allow_merge_if_pipeline_succeeds": True}
    done = place.box.runner("doctor", "--forge", rc=0)
    assert done.out == "" and "all is well" in done.err
    assert place.fake.writes() == [] and place.fake.branches.keys() == {"main"}


@pytest.mark.parametrize(
    ("case", "code", "said"),
    [
        ("role", 2, "may not write"),
        ("scope", 2, "only the scopes read_api"),
        ("squash", 0, "merged by squash alone"),
        ("open", 0, "main is not protected"),
        ("pipelines", 0, "tick `Pipelines must succeed`"),
        ("stale", 0, "the forge dismisses approvals after a push"),
        ("mine", 2, "the token is alice@example.test's own account"),
        ("bot", 0, "is a bot's"),
        ("guest", 0, "may not write"),
        ("wrong token", 2, "refuses the token of RUNNER_FORGE_TOKEN"),
        ("no token", 2, "there is no token"),
        ("push", 2, "could not be reached"),
        ("agents' branches", 2, "protocols' branches are protected"),
        ("unset", 0, "`forge:` is not set"),
    ],
)
def test_what_will_not_work(place: Town, case: str, code: int, said: str) -> None:
    fake, accounts, env = place.fake, place.accounts, {}
    if case == "role":
        accounts["runner"].level = 20
    elif case == "scope":
        fake.tokens[TOKEN] = (accounts["runner"].id, ["read_api"])
    elif case == "squash":
        fake.project |= {"squash_option": "always"}
    elif case == "stale":
        fake.project_approvals = {"reset_approvals_on_push": True}
    elif case == "mine":
        fake.tokens[TOKEN] = (accounts["alice"].id, ["api"])
    elif case == "bot":
        accounts["bob"].bot = True
    elif case == "guest":
        accounts["bob"].level = 10
    elif case == "wrong token":
        env = {"RUNNER_FORGE_TOKEN": "glpat-another"}
    elif case == "no token":
        env = {"RUNNER_FORGE_TOKEN": ""}
    elif case == "push":
        place.box.git("remote", "set-url", "origin", place.box.path.parent / "gone.git")
        place.box.runner("doctor", "--repin")
    elif case == "agents' branches":
        fake.protected.append(like(PROTECTED, name="0*"))
        place.box.runner("sync", place.box.new({"01-a": "kind: human\n"}), rc=0)
    elif case == "unset":
        place.box.write(".protocols/config.yaml", "publish: never\n")
        place.box.commit("no forge")
        place.box.git("push", "-q", "origin", "main")
        place.box.git("fetch", "-q", "origin")
    done = place.box.runner("doctor", "--forge", env=env)
    assert done.code == code and said in done.out, done.out + done.err
    assert TOKEN not in done.out + done.err
