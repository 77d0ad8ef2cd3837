import subprocess
import sys
from pathlib import Path

import fedfuse

ROOT = Path(fedfuse.__file__).parent.parent


def start(*words):
    command = [sys.executable, "-m", "fedfuse", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_package_can_be_started_and_passes_its_exit_code_on():
    version = start("--version")
    assert (version.returncode, version.stdout, version.stderr) == (0, f"fedfuse {fedfuse.__version__}\n", "")
    mistake = start("run", "sed=3")
    assert (mistake.returncode, mistake.stdout) == (2, "")
    assert mistake.stderr.startswith("fedfuse: error: Unknown key 'sed'. Did you mean 'seed'?")
    assert mistake.stderr.count("\n") == 1


def test_mistakes_and_help_do_not_wait_for_torch():
    program = (
        "import sys\n"
        "from fedfuse.cli import main\n"
        "assert main(['run', 'strategy=knfuu']) == main(['run', '-m', 'seed=0,x']) == 2\n"
        "assert main(['list']) == 0\n"
        "try: main(['run', '--help'])\n"
        "except SystemExit as stopped: assert stopped.code == 0\n"
        "print(sorted(name for name in ('torch', 'flwr', 'sklearn') if name in sys.modules))\n"
    )
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.endswith("\n[]\n")
