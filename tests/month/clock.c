/* A time of day that can be set, for every process that this is preloaded into: the machine's plus an offset that all of
 * them share through a file. Clocks that only measure (CLOCK_MONOTONIC) go on as they are, so that nothing that waits is
 * disturbed; waits until a time of day are translated back.
 *
 * libfaketime 0.9.10 is not used: it ends absolute waits on CLOCK_MONOTONIC too early, and such is every time.sleep of
 * Python 3.11 (clock_nanosleep with TIMER_ABSTIME). */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define SECOND 1000000000LL
/* No machine has been up for so long: a later time is a time of day. */
#define YEARS_30 (30LL * 365 * 86400)

static volatile const int64_t *offset_ns;

__attribute__((constructor)) static void open_clock(void) {
  const char *path = getenv("SIMULATED_CLOCK");
  int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
  if (file < 0) return;
  void *mapped = mmap(NULL, sizeof(int64_t), PROT_READ, MAP_SHARED, file, 0);
  close(file);
  if (mapped != MAP_FAILED) offset_ns = mapped;
}

static void shift(struct timespec *at, int64_t by) {
  int64_t ns = at->tv_nsec + by % SECOND;
  at->tv_sec += by / SECOND;
  if (ns < 0) { ns += SECOND; at->tv_sec--; }
  if (ns >= SECOND) { ns -= SECOND; at->tv_sec++; }
  at->tv_nsec = ns;
}

static int64_t offset(void) { return offset_ns ? *offset_ns : 0; }

/* The kernel's time for a deadline; others than times of day as they are. */
static const struct timespec *real_deadline(const struct timespec *until, struct timespec *translated) {
  if (!until || until->tv_sec < YEARS_30) return until;
  *translated = *until;
  shift(translated, -offset());
  return translated;
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static long real_syscall(long number, long a, long b, long c, long d, long e, long f) {
  static long (*next)(long, ...);
  if (!next) next = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
  return next(number, a, b, c, d, e, f);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
  static int (*next)(clockid_t, struct timespec *);
  if (!next) next = NEXT(clock_gettime);
  int result = next(clock, now);
  if (!result && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) shift(now, offset());
  return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
  struct timespec at;
  (void)zone;
  clock_gettime(CLOCK_REALTIME, &at);
  now->tv_sec = at.tv_sec;
  now->tv_usec = at.tv_nsec / 1000;
  return 0;
}

time_t time(time_t *now) {
  struct timespec at;
  clock_gettime(CLOCK_REALTIME, &at);
  if (now) *now = at.tv_sec;
  return at.tv_sec;
}

int timespec_get(struct timespec *now, int base) {
  return base == TIME_UTC && !clock_gettime(CLOCK_REALTIME, now) ? base : 0;
}

int pthread_cond_timedwait(pthread_cond_t *restrict condition, pthread_mutex_t *restrict mutex,
                           const struct timespec *restrict until) {
  static int (*next)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);
  struct timespec translated;
  /* The older of its two versions is another function. */
  if (!next) next = dlvsym(RTLD_NEXT, "pthread_cond_timedwait", "GLIBC_2.3.2");
  if (!next) next = NEXT(pthread_cond_timedwait);
  return next(condition, mutex, real_deadline(until, &translated));
}

int pthread_mutex_timedlock(pthread_mutex_t *restrict mutex, const struct timespec *restrict until) {
  struct timespec translated;
  return NEXT(pthread_mutex_timedlock)(mutex, real_deadline(until, &translated));
}

int sem_timedwait(sem_t *restrict semaphore, const struct timespec *restrict until) {
  struct timespec translated;
  return NEXT(sem_timedwait)(semaphore, real_deadline(until, &translated));
}

/* Futexes are waited for without a function of their own. */
long syscall(long number, ...) {
  va_list given;
  long a[6];
  struct timespec translated;
  va_start(given, number);
  for (int i = 0; i < 6; i++) a[i] = va_arg(given, long);
  va_end(given);
  if (number == SYS_futex && (a[1] & FUTEX_CLOCK_REALTIME))
    a[3] = (long)real_deadline((const struct timespec *)a[3], &translated);
  return real_syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}
