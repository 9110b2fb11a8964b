"""What every component exports. What this policy decides is in hook.py."""

import json

import hook
import settings
from hook import *
from schema import SCHEMA
from wit_world import exports
from wit_world.exports.policy import Descriptor


class Policy(exports.Policy):
    def describe(self) -> Descriptor:
        return Descriptor("{{name}}", "0.1.0", hook.SUMMARY, SCHEMA)

    def configure(self, config_json: str) -> None:
        hook.config = hook.Config(settings.read(json.loads(SCHEMA), config_json))

    def self_test(self) -> None:
        hook.config.self_test()
