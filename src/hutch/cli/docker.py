"""What Docker's command line has and Hutch's lacks: who types it is told so, instead of the nearest other word."""

from __future__ import annotations

COMMANDS = frozenset(
    """
    attach build builder buildx checkpoint compose config context create events info manifest node plugin rename restart search secret
    service stack start swarm top trust update wait
    """.split()
)
BELOW = {
    "container": "attach create prune rename restart start top update wait",
    "image": "build", "system": "events info dial-stdio", "volume": "update",
}  # fmt: skip

# by command, every flag of Docker's, long and short; those that Hutch has are found before this is asked
FLAGS = {
    "run": """
        --annotation -a --attach --blkio-weight-device --cgroup-parent --cgroupns --cpu-count --cpu-percent --cpu-rt-period --cpu-rt-runtime
        -c --cpu-shares --detach-keys --device-cgroup-rule --disable-content-trust --domainname --gpus --health-cmd --health-interval
        --health-retries --health-start-interval --health-start-period --health-timeout --io-maxbandwidth --io-maxiops --isolation
        --kernel-memory --label-file --link --link-local-ip --log-driver --log-opt --no-healthcheck --oom-kill-disable --platform --restart
        --runtime --storage-opt --use-api-socket --volume-driver --volumes-from
    """,
    "exec": "-d --detach --detach-keys --privileged",
    "ps": "-f --filter -n --last -l --latest -s --size --no-trunc --format",
    "logs": "--details --since --until -t --timestamps -n --tail",
    "rm": "-l --link -v --volumes",
    "stop": "-s --signal -t --timeout --time",
    "stats": "-a --all --no-stream --no-trunc --format",
    "cp": "-a --archive -L --follow-link -q --quiet",
    "commit": "-a --author -p --pause -c --change -m --message --no-pause",
    "images": "-a --all --digests -f --filter --no-trunc --tree --format",
    "pull": "-a --all-tags --disable-content-trust --platform -q --quiet",
    "push": "-a --all-tags --disable-content-trust --platform -q --quiet",
    "rmi": "-f --force --no-prune --platform",
    "history": "-H --human --no-trunc -q --quiet --platform --format",
    "inspect": "-f --format -s --size --type",
    "save": "--platform -o --output", "load": "--platform -i --input -q --quiet", "import": "-c --change -m --message --platform",
    "login": "-p --password --password-stdin -u --username",
    "volume create": "--availability -d --driver --group --label --limit-bytes -o --opt --required-bytes --scope --secret --sharing --type",
    "volume ls": "--cluster -f --filter --format -q --quiet", "volume prune": "-a --all --filter -f --force", "volume rm": "-f --force",
    "network create": """--attachable --aux-address --config-from --config-only -d --driver --gateway --ingress --internal --ip-range
        --ipam-driver --ipam-opt --ipv4 --ipv6 --label -o --opt --scope --subnet""",
    "network ls": "-f --filter --format --no-trunc -q --quiet", "network rm": "-f --force", "network prune": "--filter -f --force",
    "network connect": "--alias --driver-opt --gw-priority --ip --ip6 --link --link-local-ip", "network disconnect": "-f --force",
    "system df": "-v --verbose --format", "system prune": "-a --all --filter -f --force --volumes",
    "kill": "-s --signal", "version": "-f --format",
}  # fmt: skip


def command(name: str) -> bool:
    """Whether Docker has a command of this name ("wait", "system info")."""
    group, _, word = name.partition(" ")
    return name in COMMANDS or group in COMMANDS or word in BELOW.get(group, "").split()


def flag(command_name: str, name: str) -> bool:
    """Whether Docker's command of this name has the flag."""
    return name in FLAGS.get(command_name, "").split()
