#define _GNU_SOURCE
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <fcntl.h>
#include <errno.h>
#include <signal.h>
#include <time.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <sys/prctl.h>
#include <linux/sched.h>
#include <linux/mount.h>
static int lastc=-1;static void flog(void){char b[256];int n;if(lastc>=0)while((n=read(lastc,b,255))>0){b[n]=0;fprintf(stderr,"  log: %s\n",b);}}
#define C(x) ({ long _r=(long)(x); if(_r<0){ fprintf(stderr,"%s:%d %s: %m\n",__FILE__,__LINE__,#x); flog(); _exit(99);} _r;})
static int fsopen_(const char*t){return lastc=syscall(SYS_fsopen,t,1);}
static int fscfg(int fd,int cmd,const char*k,const void*v,int aux){return syscall(SYS_fsconfig,fd,cmd,k,v,aux);}
static int fsmnt(int fd,int attr){int r=syscall(SYS_fsmount,fd,1,attr);return r;}
static double now(){struct timespec t;clock_gettime(CLOCK_MONOTONIC,&t);return t.tv_sec*1e3+t.tv_nsec/1e6;}
static double t0; static int verbose;
static void T(const char*s){ if(verbose){ double n=now(); fprintf(stderr,"%-20s %.3f\n",s,n-t0); } }
static void wr(const char*p,const char*s){int f=C(open(p,O_WRONLY));C(write(f,s,strlen(s)));close(f);}
int idmap_clone(const char*path,int uns){int f=C(syscall(SYS_open_tree,-100,path,OPEN_TREE_CLONE|O_CLOEXEC));
 struct mount_attr a={.attr_set=MOUNT_ATTR_IDMAP|MOUNT_ATTR_RDONLY,.userns_fd=uns};C(syscall(SYS_mount_setattr,f,"",AT_EMPTY_PATH,&a,sizeof a));return f;}
static void attach(int fd,const char*p){ C(syscall(SYS_move_mount,fd,"",-100,p,MOVE_MOUNT_F_EMPTY_PATH)); }
static void simple(const char*t,const char*p){int c=C(fsopen_(t));C(fscfg(c,FSCONFIG_CMD_CREATE,0,0,0));int m=C(fsmnt(c,0));attach(m,p);close(c);close(m);}
int main(int argc,char**argv){
 verbose=getenv("V")!=0; int userns=!getenv("NOUSER"); t0=now();
 int p1[2],p2[2]; C(pipe2(p1,O_CLOEXEC));C(pipe2(p2,O_CLOEXEC));
 struct clone_args ca={.flags=CLONE_FILES|CLONE_NEWNS|CLONE_NEWPID|CLONE_NEWIPC|CLONE_NEWUTS|(getenv("NONET")?0:CLONE_NEWNET)|CLONE_NEWCGROUP|(userns?CLONE_NEWUSER:0),.exit_signal=SIGCHLD};
 int *sh=mmap(0,4096,3,0x21,-1,0);
 pid_t pid=C(syscall(SYS_clone3,&ca,sizeof ca));
 char b[64];
 if(pid){ T("clone");
  if(userns){ snprintf(b,64,"/proc/%d/uid_map",pid);wr(b,"0 536870912 65536");snprintf(b,64,"/proc/%d/gid_map",pid);wr(b,"0 536870912 65536");
  snprintf(b,64,"/proc/%d/ns/user",pid);int u=C(open(b,O_RDONLY));
  sh[0]=idmap_clone("/usr",u);sh[1]=idmap_clone("/etc",u);} else {}
  T("host");
  C(write(p1[1],"x",1));int st;C(waitpid(pid,&st,0));T("exited");return WEXITSTATUS(st);}
 C(read(p1[0],b,1)); T("go");
 if(userns){C(setresgid(0,0,0));C(setresuid(0,0,0));}
 C(mount(0,"/",0,MS_REC|MS_PRIVATE,0)); T("private");
 int c=C(fsopen_("tmpfs"));C(fscfg(c,FSCONFIG_SET_STRING,"mode","0755",0));C(fscfg(c,FSCONFIG_CMD_CREATE,0,0,0));int root=C(fsmnt(c,0));
 attach(root,"/tmp");C(fchdir(root));T("tmpfs");
 const char*d[]={"up","wk","root","up/usr","up/etc","wk/usr","wk/etc","root/usr","root/etc","root/proc","root/sys","root/dev","root/tmp",0};
 for(int i=0;d[i];i++)C(mkdir(d[i],0755));
 C(mkdir("layer",0755));C(mkdir("layer/usr",0755));C(mkdir("layer/etc",0755));
 if(userns){attach(sh[0],"layer/usr");attach(sh[1],"layer/etc");} else {sh[0]=open("/usr",O_PATH);sh[1]=open("/etc",O_PATH);} T("layers");
 const char*nm[]={"usr","etc"};
 for(int i=0;i<2;i++){char s[64];
  c=C(fsopen_("overlay"));C(fscfg(c,FSCONFIG_SET_FLAG,"userxattr",0,0));C(fscfg(c,FSCONFIG_SET_FD,"lowerdir+",0,sh[i]));
  snprintf(s,64,"up/%s",nm[i]);int f=C(open(s,O_PATH));C(fscfg(c,FSCONFIG_SET_FD,"upperdir",0,f));
  snprintf(s,64,"wk/%s",nm[i]);f=C(open(s,O_PATH));C(fscfg(c,FSCONFIG_SET_FD,"workdir",0,f));
  C(fscfg(c,FSCONFIG_CMD_CREATE,0,0,0));int m=C(fsmnt(c,0));snprintf(s,64,"root/%s",nm[i]);attach(m,s);close(c);T("overlay");}
 C(symlink("usr/bin","root/bin"));C(symlink("usr/lib","root/lib"));C(symlink("usr/lib64","root/lib64"));
 simple("proc","root/proc");T("proc");
 simple("sysfs","root/sys");T("sysfs");
 simple("tmpfs","root/dev");T("dev");
 C(mkdir("root/dev/pts",0755));C(mkdir("root/dev/shm",01777));C(mkdir("root/dev/mqueue",0755));
 simple("devpts","root/dev/pts");T("devpts");simple("tmpfs","root/dev/shm");T("shm");simple("mqueue","root/dev/mqueue");T("mqueue");
 const char*n[]={"null","zero","full","random","urandom","tty",0};
 for(int i=0;n[i];i++){char s[64],h[64];snprintf(s,64,"root/dev/%s",n[i]);snprintf(h,64,"/dev/%s",n[i]);
  if(userns){close(C(open(s,O_CREAT|O_WRONLY,0666)));int f=C(syscall(SYS_open_tree,-100,h,OPEN_TREE_CLONE));attach(f,s);close(f);}
  else C(mknod(s,S_IFCHR|0666,makedev(1,3)));}
 T("devs");
 int rr=C(open("root",O_PATH)); 
 // make root a mount: bind
 int rb=C(syscall(SYS_open_tree,rr,"",AT_EMPTY_PATH|OPEN_TREE_CLONE|AT_RECURSIVE));T("rootclone");
 C(syscall(SYS_move_mount,rb,"",-100,"/proc",MOVE_MOUNT_F_EMPTY_PATH));C(fchdir(rb));
 C(syscall(SYS_pivot_root,".","."));T("pivot");C(umount2(".",MNT_DETACH));T("umount");C(chdir("/"));
 C(sethostname("box",3));
 execv(argv[1],argv+1);perror("exec");_exit(127);
}
