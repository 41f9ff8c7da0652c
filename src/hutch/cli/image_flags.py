"""The flags of the commands for images and volumes; those for containers are in `flags`, which every start reads."""

from __future__ import annotations

from hutch.cli.flags import flag
from hutch.cli.parse import Command

_FORMAT = flag("--format", "json, or a template of fields such as '{{.ID}} {{.Repository}}'", "FORMAT")
_QUIET = flag("-q --quiet", "ids or names alone")
_FILTER = flag("-f --filter", "only those with NAME=VALUE", "NAME=VALUE", "list")
_OUTPUT = flag("-o --output", "a file instead of standard output", "FILE")
_PLATFORM = flag("--platform", "for another machine, such as linux/arm64", "OS/ARCH[/VARIANT]")
_CHANGE = flag("-c --change", "an instruction of a Dockerfile for the image's configuration, such as 'CMD [\"sh\"]'", "INSTRUCTION", "list")

_COMMANDS = (
    Command(
        name="pull", summary="Fetch an image from a registry.", usage="[FLAGS] NAME[:TAG|@DIGEST]", flags=(flag("-q --quiet", "no progress"), _PLATFORM),
        details="Names are Docker's: `debian:12` is docker.io/library/debian:12. What is fetched is verified by its digest, and an\n"
        "interrupted pull goes on where it was. Mirrors and registries without TLS: registries.toml in /etc/hutch or ~/.config/hutch.",
    ),
    Command(
        name="push", summary="Send an image to a registry.", usage="[FLAGS] NAME[:TAG] [TARGET]", flags=(flag("-q --quiet", "no progress"),),
        details="TARGET is another name to send it under. What was pulled is sent byte for byte as it was.",
    ),
    Command(name="login", summary="Remember who you are to a registry.", usage="[FLAGS] [REGISTRY]",
        flags=(
            flag("-u --username", "the user's name", "NAME"),
            flag("-p --password", "the password; others on this machine may see it: prefer --password-stdin", "PASSWORD"),
            flag("--password-stdin", "read the password from standard input"),
        ),
        details="Without a name, Docker Hub. Written to ~/.config/hutch/auth.json; Docker's and Podman's files and credential\nhelpers are read, too.",
    ),
    Command(name="logout", summary="Forget who you are to a registry.", usage="[REGISTRY]"),
    Command(name="images", summary="List the images of the store.", usage="[FLAGS] [NAME]",
        flags=(_QUIET, _FORMAT, _FILTER, flag("--digests", "their digests, too"), flag("--no-trunc", "whole ids")),
        details="Filters: reference=PATTERN, label=NAME[=VALUE], dangling=true|false, before=IMAGE, since=IMAGE.\n"
        "Fields: .Repository .Tag .ID .Digest .CreatedSince .CreatedAt .Size .Reference .Platform",
    ),
    Command(name="rmi", summary="Remove images.", usage="[-f] IMAGE...", flags=(flag("-f --force", "also one that containers use, or with several names"),)),
    Command(name="tag", summary="Give an image another name.", usage="IMAGE NAME[:TAG]"),
    Command(name="history", summary="Show how an image was made.", usage="[FLAGS] IMAGE", flags=(_QUIET, _FORMAT, flag("--no-trunc", "whole lines"))),
    Command(name="inspect", summary="Show all that is known of images, containers and volumes, as JSON.", usage="NAME...",
        flags=(flag("--type", "look for these alone", "KIND", values="image container volume"), _FORMAT,
            flag("--kernel", "what the kernel has of containers, as a tree: namespaces, interfaces, routes, rules, sockets, cgroups"))),
    Command(name="save", summary="Write images into an archive.", usage="[-o FILE] IMAGE...", flags=(_OUTPUT,),
        details="The archive is an OCI layout that `docker load`, `podman load` and skopeo read."),
    Command(name="load", summary="Bring an archive's images into the store.", usage="[-i FILE]",
        flags=(flag("-i --input", "a file or an OCI layout's directory instead of standard input", "FILE"), flag("-q --quiet", "nothing but errors"))),
    Command(name="import", summary="Make an image of a root file system's tar.", usage="[FLAGS] FILE|- [NAME[:TAG]]",
        flags=(_CHANGE, flag("-m --message", "a line of its history", "TEXT"))),
    Command(name="export", summary="Write a container's root file system as a tar.", usage="[-o FILE] CONTAINER",
        flags=(_OUTPUT,)),
    Command(name="commit", summary="Make an image of a container's changes.", usage="[FLAGS] CONTAINER [NAME[:TAG]]",
        flags=(
            flag("-a --author", "who made it", "TEXT"), _CHANGE, flag("-m --message", "a line of its history", "TEXT"),
            flag("-p --pause", "let its processes stand still meanwhile (default: true)"),
        ),
    ),
    Command(name="diff", summary="List what a container changed: A added, C changed, D deleted.", usage="CONTAINER"),
    Command(name="healthcheck", summary="Run the health check of a container's image, once.", usage="CONTAINER",
        details="Prints healthy (exit code 0) or unhealthy (1). Nothing runs it by itself: there is no daemon that could."),
    Command(name="cp", summary="Copy files into or out of a container, running or not.", usage="CONTAINER:PATH PATH|-  |  hutch cp PATH|- CONTAINER:PATH",
        details="As `docker cp`: into a directory that exists, under the source's name; with PATH/. its content. `-` is a tar."),
    Command(name="snapshot create", summary="Save a machine with what runs in it, to start copies from.", usage="CONTAINER NAME"),
    Command(name="snapshot ls", summary="List the snapshots.", usage="[FLAGS]", flags=(_QUIET, _FORMAT)),
    Command(name="snapshot inspect", summary="Show all that is known of snapshots, as JSON.", usage="NAME..."),
    Command(name="snapshot rm", summary="Remove snapshots; copies of them go on.", usage="NAME..."),
    Command(name="volume create", summary="Make a volume.", usage="[FLAGS] [NAME]", flags=(flag("--label", "a label", "NAME=VALUE", "list"),)),
    Command(name="volume ls", summary="List the volumes.", usage="[FLAGS]", flags=(_QUIET, _FORMAT, _FILTER)),
    Command(name="volume inspect", summary="Show all that is known of volumes, as JSON.", usage="NAME..."),
    Command(name="volume rm", summary="Remove volumes that no container uses.", usage="[-f] NAME...",
        flags=(flag("-f --force", "no error for one that does not exist"),)),
    Command(name="volume prune", summary="Remove volumes that no container uses.", usage="[FLAGS]",
        flags=(
            flag("-a --all", "those with a name, too"), flag("--filter", "only those that it fits", "KEY=VALUE", "list"),
            flag("-f --force", "for scripts that say it: nothing is asked"),
        )),
    Command(name="network create", summary="Make a network, and print its id.", usage="[FLAGS] NAME",
        flags=(
            flag("--subnet", "its addresses (CIDR); one of IPv4 and one of IPv6 at most", "SUBNET", "list"),
            flag("--gateway", "the host's own address in a subnet (default: the first)", "ADDRESS", "list"),
            flag("--ip-range", "containers get addresses of this part of a subnet", "CIDR", "list"),
            flag("--ipv6", "IPv6 addresses of its own, too"), flag("--internal", "nothing leads out of it"),
            flag("-d --driver", "bridge (the default), macvlan or ipvlan", "DRIVER", values="bridge macvlan ipvlan"),
            flag("-o --opt", "parent=INTERFACE, macvlan_mode=, ipvlan_mode=, com.docker.network.driver.mtu=BYTES", "KEY=VALUE", "list"),
            flag("--label", "a label", "KEY=VALUE", "list"),
        ),
        details="Containers of a network reach each other and, unless it is internal, what the host reaches. No other network's\n"
        "containers reach them, and nobody outside does."),
    Command(name="network ls", summary="List the networks.", usage="[FLAGS]", flags=(_QUIET, _FORMAT, _FILTER)),
    Command(name="network inspect", summary="Show all that is known of networks, as JSON.", usage="NAME...",
        flags=(flag("--kernel", "what the kernel has of them, as a tree: bridge, ports, rules"),)),
    Command(name="network rm", summary="Remove networks that no container is on.", usage="[-f] NAME...",
        flags=(flag("-f --force", "no error for one that does not exist"),)),
    Command(name="network prune", summary="Remove networks that no container is on.", usage="[FLAGS]",
        flags=(flag("-f --force", "for scripts that say it: nothing is asked"),)),
    Command(name="network connect", summary="Connect a running container to a further network.", usage="[FLAGS] NETWORK CONTAINER",
        flags=(
            flag("--ip", "its address on the network", "ADDRESS"), flag("--ip6", "its IPv6 address on the network", "ADDRESS"),
            flag("--mac-address", "its MAC there", "MAC"), flag("--alias", "a further name on the network", "NAME", "list"),
        )),
    Command(name="network disconnect", summary="Take a running container off a network.", usage="NETWORK CONTAINER",
        flags=(flag("-f --force", "no error for one that is not on it"),)),
    Command(name="kvm run", summary="Run a few instructions as a virtual machine, and show why it comes back each time.", usage="[FLAGS] FILE",
        flags=(
            flag("--mode", "how the processor begins: real, protected or long (default)", "MODE", values="real protected long"),
            flag("-m --memory", "the guest's memory, from 0 on (default: 4m)", "SIZE"),
            flag("--exits", "how many exits are waited for (default: 1000)", "NUMBER"), flag("--timeout", "how long it may take", "SECONDS"),
        ),
        details="FILE is nothing but instructions; they begin at 0x1000, with a stack at the end of memory, and in long mode with the\n"
        "first GiB mapped where it is. The exit code is 0 if the guest halts."),
    Command(name="kvm probe", summary="Say whether KVM runs a kernel on this machine, by running a few instructions.", usage=""),
    Command(name="system df", summary="Show what takes room on the disk.", usage="[FLAGS]", flags=(_FORMAT,)),
    Command(name="system prune", summary="Remove what nothing needs: layers, blobs, half-made files.", usage="[FLAGS]",
        flags=(
            flag("-a --all", "images that no container uses, too"), flag("--volumes", "volumes without a name that no container uses, too"),
            flag("-f --force", "for scripts that say it: nothing is asked"),
        ),
    ),
    Command(name="system fsck", summary="Verify every blob, layer and name of the store.", usage="[--repair]",
        flags=(flag("--repair", "remove what is damaged, and make anew what can be"),), details="The exit code is 1 when something is wrong."),
)  # fmt: skip

COMMANDS = tuple(command.replace(mixed=True) for command in _COMMANDS)
