/* The floor: what the kernel itself takes for a container, and nothing else.
 *
 * usage: floor PROGRAM [ARG...]     (as root; the program is executed in the container, its exit code is ours)
 *
 * A process in new user, mount, pid, network, ipc, uts and cgroup namespaces. Its user namespace is mapped by the parent.
 * Its root is a tmpfs with copy-on-write views of the host's /usr and /etc (overlays over idmapped clones), /proc, /sys,
 * and a /dev with nodes, pts, shm and mqueue; the old root is pivoted away. There are no limits, no seccomp filter, no
 * dropped capabilities, no masked paths, no record and no error handling: an engine has all of that to add. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include <linux/mount.h>
#include <linux/sched.h>

#define FIRST_ID 536870912
#define CHECK(call) check((long)(call), #call, __LINE__)

static long check(long result, const char *call, int line)
{
    if (result < 0) {
        fprintf(stderr, "floor.c:%d: %s: %m\n", line, call);
        _exit(125);
    }
    return result;
}

static void write_file(const char *path, const char *text)
{
    int fd = CHECK(open(path, O_WRONLY | O_CLOEXEC));
    CHECK(write(fd, text, strlen(text)));
    close(fd);
}

static int new_filesystem(const char *type) { return CHECK(syscall(SYS_fsopen, type, FSOPEN_CLOEXEC)); }

static void set(int context, int kind, const char *key, const char *text, int fd)
{
    CHECK(syscall(SYS_fsconfig, context, kind, key, text, fd));
}

/* The end of a file system's configuration: a mount that is attached nowhere yet. */
static int made(int context)
{
    set(context, FSCONFIG_CMD_CREATE, 0, 0, 0);
    int mount = CHECK(syscall(SYS_fsmount, context, FSMOUNT_CLOEXEC, 0));
    close(context);
    return mount;
}

static void attach(int mount, const char *path)
{
    CHECK(syscall(SYS_move_mount, mount, "", AT_FDCWD, path, MOVE_MOUNT_F_EMPTY_PATH));
    close(mount);
}

/* A read-only clone of a host directory on which the host's ids are the container's. */
static int idmapped_clone(const char *path, int user_namespace)
{
    struct mount_attr attributes = {.attr_set = MOUNT_ATTR_IDMAP | MOUNT_ATTR_RDONLY, .userns_fd = user_namespace};
    int mount = CHECK(syscall(SYS_open_tree, AT_FDCWD, path, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC));
    CHECK(syscall(SYS_mount_setattr, mount, "", AT_EMPTY_PATH, &attributes, sizeof attributes));
    return mount;
}

/* /dev with its nodes, made from outside: mknod(2) is not for user namespaces. */
static int devices(void)
{
    static const struct { const char *name; int major, minor; } nodes[] = {
        {"null", 1, 3}, {"zero", 1, 5}, {"full", 1, 7}, {"random", 1, 8}, {"urandom", 1, 9}, {"tty", 5, 0},
    };
    static const char *const directories[] = {"pts", "shm", "mqueue"};
    char owner[16];
    int context = new_filesystem("tmpfs");
    snprintf(owner, sizeof owner, "%d", FIRST_ID);
    set(context, FSCONFIG_SET_STRING, "uid", owner, 0);
    set(context, FSCONFIG_SET_STRING, "gid", owner, 0);
    set(context, FSCONFIG_SET_STRING, "mode", "0755", 0);
    int mount = made(context);
    for (unsigned i = 0; i < sizeof nodes / sizeof *nodes; i++)
        CHECK(mknodat(mount, nodes[i].name, S_IFCHR | 0666, makedev(nodes[i].major, nodes[i].minor)));
    for (unsigned i = 0; i < sizeof directories / sizeof *directories; i++) CHECK(mkdirat(mount, directories[i], 0755));
    return mount;
}

/* What the two processes share: they have one descriptor table. */
static struct shared {
    int usr, etc, dev;
} *shared;

/* The overlay `name` on root/NAME, over the mount `lower`. */
static void view(const char *name, int lower)
{
    char path[32];
    int context = new_filesystem("overlay");
    snprintf(path, sizeof path, "layer/%s", name);
    attach(lower, path);
    int layer = CHECK(open(path, O_PATH | O_CLOEXEC));
    snprintf(path, sizeof path, "upper/%s", name);
    int upper = CHECK(open(path, O_PATH | O_CLOEXEC));
    snprintf(path, sizeof path, "work/%s", name);
    int work = CHECK(open(path, O_PATH | O_CLOEXEC));
    set(context, FSCONFIG_SET_FLAG, "userxattr", 0, 0);
    set(context, FSCONFIG_SET_FD, "lowerdir+", 0, layer);
    set(context, FSCONFIG_SET_FD, "upperdir", 0, upper);
    set(context, FSCONFIG_SET_FD, "workdir", 0, work);
    snprintf(path, sizeof path, "root/%s", name);
    attach(made(context), path);
    close(layer), close(upper), close(work);
}

static void container(char **command)
{
    static const char *const directories[] = {
        "layer", "layer/usr", "layer/etc", "upper", "upper/usr", "upper/etc", "work", "work/usr", "work/etc",
        "root", "root/usr", "root/etc", "root/proc", "root/sys", "root/dev", "root/tmp",
    };
    static const char *const links[] = {"bin", "sbin", "lib", "lib64"};
    char path[32], target[32];

    CHECK(setresgid(0, 0, 0));
    CHECK(setresuid(0, 0, 0));
    CHECK(sethostname("floor", 5));
    CHECK(mount(0, "/", 0, MS_REC | MS_PRIVATE, 0));
    int context = new_filesystem("tmpfs");
    set(context, FSCONFIG_SET_STRING, "mode", "0755", 0);
    int base = made(context);
    CHECK(syscall(SYS_move_mount, base, "", AT_FDCWD, "/tmp", MOVE_MOUNT_F_EMPTY_PATH));
    CHECK(fchdir(base));
    for (unsigned i = 0; i < sizeof directories / sizeof *directories; i++) CHECK(mkdir(directories[i], 0755));
    for (unsigned i = 0; i < sizeof links / sizeof *links; i++) {
        snprintf(path, sizeof path, "root/%s", links[i]);
        snprintf(target, sizeof target, "usr/%s", links[i]);
        CHECK(symlink(target, path));
    }
    view("usr", shared->usr);
    view("etc", shared->etc);
    attach(made(new_filesystem("proc")), "root/proc");
    attach(made(new_filesystem("sysfs")), "root/sys");
    attach(shared->dev, "root/dev");
    attach(made(new_filesystem("devpts")), "root/dev/pts");
    attach(made(new_filesystem("tmpfs")), "root/dev/shm");
    attach(made(new_filesystem("mqueue")), "root/dev/mqueue");
    /* pivot_root(2) wants a mount point: a recursive clone of root/ */
    int root = CHECK(syscall(SYS_open_tree, AT_FDCWD, "root", OPEN_TREE_CLONE | AT_RECURSIVE | OPEN_TREE_CLOEXEC));
    CHECK(syscall(SYS_move_mount, root, "", AT_FDCWD, "/tmp", MOVE_MOUNT_F_EMPTY_PATH));
    CHECK(fchdir(root));
    CHECK(syscall(SYS_pivot_root, ".", "."));
    CHECK(umount2(".", MNT_DETACH));
    CHECK(chdir("/"));
    execv(command[0], command);
    check(-1, command[0], __LINE__);
}

int main(int argc, char **argv)
{
    struct clone_args arguments = {
        .flags = CLONE_FILES | CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP,
        .exit_signal = SIGCHLD,
    };
    char path[64], map[64];
    int status;

    umask(0);
    if (argc < 2) return fprintf(stderr, "usage: floor PROGRAM [ARG...]\n"), 125;
    int go = CHECK(eventfd(0, EFD_CLOEXEC));
    shared = mmap(0, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pid_t child = CHECK(syscall(SYS_clone3, &arguments, sizeof arguments));
    if (child == 0) {
        eventfd_t value;
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        CHECK(eventfd_read(go, &value));
        container(argv + 1);
    }
    snprintf(map, sizeof map, "0 %d 65536", FIRST_ID);
    snprintf(path, sizeof path, "/proc/%d/uid_map", child);
    write_file(path, map);
    snprintf(path, sizeof path, "/proc/%d/gid_map", child);
    write_file(path, map);
    snprintf(path, sizeof path, "/proc/%d/ns/user", child);
    int user_namespace = CHECK(open(path, O_RDONLY | O_CLOEXEC));
    shared->usr = idmapped_clone("/usr", user_namespace);
    shared->etc = idmapped_clone("/etc", user_namespace);
    shared->dev = devices();
    CHECK(eventfd_write(go, 1));
    CHECK(waitpid(child, &status, 0));
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
