"""``tlt info``: version, models, packages and device; or the schema of result.json."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from tlt.errors import UsageError

PACKAGES = ("torch", "numpy", "scipy", "SimpleITK", "pydicom", "pydantic", "matplotlib")
OPTIONAL_PACKAGES = ("highdicom", "numba", "openvino", "picsl_greedy")


def info(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    schema: Annotated[
        bool, typer.Option("--schema", help="Print the JSON schema of result.json.")
    ] = False,
) -> None:
    """Show the version, the models and the machine; or the JSON schema of result.json."""
    if as_json and schema:
        raise UsageError("--json and --schema print two different things; give one")
    if schema:
        from tlt.io.results import result_schema

        print(json.dumps(result_schema(), indent=1))
        return
    facts = gather()
    if as_json:
        print(json.dumps(facts, indent=1))
    else:
        _print_facts(facts)


def gather() -> dict[str, Any]:
    """Everything that ``tlt info`` says."""
    import platform

    from tlt.io.results import SCHEMA_VERSION

    return {
        "name": "tlt",
        "version": _version("transformer-lesion-tracker"),
        "result_schema_version": SCHEMA_VERSION,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "packages": {name: _version(name) for name in (*PACKAGES, *OPTIONAL_PACKAGES)},
        "device": _device(),
        "presets": _presets(),
    }


def _version(package: str) -> str | None:
    """The installed version; None when the package is not installed."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _device() -> dict[str, Any]:
    """What there is to compute with."""
    import os

    import torch

    cuda = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "cores": cores,
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cuda": cuda,
    }


def _presets() -> dict[str, dict[str, int]]:
    """The number of parameters of each model preset."""
    import torch

    from tlt.model.network import TLT
    from tlt.model.presets import PRESETS

    counts = {}
    for name, config in PRESETS.items():
        with torch.device("meta"):  # shapes without memory or random numbers
            network = TLT(config)
        counts[name] = {"parameters": sum(p.numel() for p in network.parameters())}
    return counts


def _print_facts(facts: dict[str, Any]) -> None:
    from rich import box
    from rich.table import Table

    from tlt.cli.display import out_console

    device = facts["device"]
    table = Table(box=box.SIMPLE, show_header=False, pad_edge=False, show_edge=False)
    table.add_column(style="bold")
    table.add_column()
    table.add_row("tlt", f"{facts['version']} (result schema {facts['result_schema_version']})")
    table.add_row("python", f"{facts['python']} on {facts['system']}")
    cores = f"{device['cores']} cores, {device['threads']} threads, {device['cpu_capability']}"
    table.add_row("processor", cores)
    table.add_row("cuda", ", ".join(device["cuda"]) or "none")
    table.add_section()
    for name, preset in facts["presets"].items():
        table.add_row(f"preset {name}", f"{preset['parameters']:,} parameters")
    table.add_section()
    for name, version in facts["packages"].items():
        table.add_row(name, version or "not installed")
    out_console().print(table)
