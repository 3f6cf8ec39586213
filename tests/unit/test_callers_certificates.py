"""Whom a client certificate stands for, beside keys and names."""

from __future__ import annotations

import pytest

from headrace.callers import Callers, KeyStore
from headrace.errors import UnknownCaller
from headrace.model import Caller, Role

SHOP, OPS = Caller("shop", weight=2), Caller("ops", role=Role.ADMIN)
MAPPED = {"spiffe://e/shop": "shop", "ops.internal": "ops", "new.internal": "new"}
DEAD = f"hr_{'0' * 12}_{'0' * 48}"


def callers(link, *, required):
    return Callers({"shop": SHOP, "ops": OPS}, required=required, link=link, certificates=MAPPED)


@pytest.mark.parametrize("required", [True, False])
async def test_certificate(link, required):
    """The first name that is mapped says who it is, with the role of the configuration, whatever name comes with it."""
    known = callers(link, required=required)
    assert known.identify(known.ours([], ["x", "spiffe://e/shop", "ops.internal"]), "ops") is SHOP
    assert known.identify(known.ours(["sk-ant-dummy"], ["ops.internal"]), "") is OPS
    new = known.identify(known.ours([], ["new.internal"]), "")
    assert (new, type(new.name)) == (Caller("new"), str)  # no name of a special kind goes any further


async def test_nobodys_certificate(link):
    """A name that is not mapped is worth nothing: then it takes a key, or where none is asked for, the name given counts."""
    known = callers(link, required=True)
    await known.load()
    for presented in ([], ["sk-ant-dummy"]):
        with pytest.raises(UnknownCaller):
            known.identify(known.ours(presented, ["stranger"]), "shop")
    known.reload({"ops": OPS}, required=False, certificates=MAPPED)
    assert known.identify(known.ours(["ops"], ["stranger"]), "ops").role is Role.CALLER


async def test_key_beside_certificate(link):
    """A key of ours counts before the certificate, and a bad one is not made good by it; a name in a key's place is none."""
    known = callers(link, required=True)
    key = await KeyStore(link).create("late")
    await known.load()
    assert known.identify(known.ours([key], ["spiffe://e/shop"]), "").name == "late"
    assert known.identify(known.ours([DEAD, key], ["spiffe://e/shop"]), "").name == "late"
    for presented, certificate in (([DEAD], ["spiffe://e/shop"]), (["shop"], []), (["spiffe://e/shop"], [])):
        with pytest.raises(UnknownCaller):
            known.identify(known.ours(presented, certificate), "")
