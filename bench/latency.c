/* How long a load takes that misses the caches: chases pointers through 16 MB in a random order. Prints nanoseconds. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define LINES (16 * 1024 * 1024 / 64)
#define LOADS 2000000

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e9 + t.tv_nsec;
}

int main(void) {
    char *lines = malloc((size_t)LINES * 64);
    size_t *order = malloc(LINES * sizeof *order);
    if (!lines || !order) return 1;
    for (size_t i = 0; i < LINES; i++) order[i] = i;
    for (size_t i = LINES - 1; i > 0; i--) {
        size_t j = ((size_t)rand() << 15 ^ (size_t)rand()) % i, swapped = order[i];
        order[i] = order[j];
        order[j] = swapped;
    }
    for (size_t i = 0; i < LINES; i++) *(char **)(lines + 64 * order[i]) = lines + 64 * order[(i + 1) % LINES];
    char *at = lines;
    double began = now();
    for (size_t i = 0; i < LOADS; i++) at = *(char **)at;
    double took = now() - began;
    printf("%.0f\n", took / LOADS);
    return at == NULL;
}
