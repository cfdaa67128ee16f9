/* A wall clock that jumps by up to a day, ten times a second, for a whole process: preloaded before the C library.
   The monotonic clocks are left as they are. Build: cc -shared -fPIC -o clock.so clock.c -ldl */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>
#include <sys/time.h>
#include <time.h>

static const long JUMPS[] = {0, 86400, -86400, 1, -1, 3600, -3600};

static int (*real)(clockid_t, struct timespec *);

static long jump(void) {
  struct timespec now;
  real(CLOCK_MONOTONIC, &now);
  unsigned long tenth = (unsigned long)now.tv_sec * 10 + (unsigned long)now.tv_nsec / 100000000;
  return JUMPS[(tenth * 2654435761UL >> 8) % (sizeof JUMPS / sizeof *JUMPS)];
}

int clock_gettime(clockid_t clock, struct timespec *time) {
  if (real == NULL) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
  int code = real(clock, time);
  if (code == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) time->tv_sec += jump();
  return code;
}

int gettimeofday(struct timeval *restrict time, void *restrict zone) {
  (void)zone;
  struct timespec now;
  int code = clock_gettime(CLOCK_REALTIME, &now);
  if (code == 0 && time != NULL) *time = (struct timeval){now.tv_sec, now.tv_nsec / 1000};
  return code;
}

time_t time(time_t *where) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (where != NULL) *where = now.tv_sec;
  return now.tv_sec;
}
