"""The program beside a Redis in trouble, and beside others that use the same places."""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from pathlib import Path

import anthropic
import grpc
import httpx
import pytest
import redis

from conftest import start_valkey
from daemon_process import HEADRACE, environment, headrace, serving
from headrace.simulator import Simulator

ASK = {"model": "claude-haiku-4-5", "max_tokens": 9}
ALL = "~headrace:* ~rq:* &headrace:* +@all -@admin -@dangerous +info"
