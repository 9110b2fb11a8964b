// The part of the C library that bindings and policy need. Compiled without builtins: the compiler
// would turn these loops into calls of themselves.

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

// An instance serves one request, so memory is only handed out; all of it goes with the instance.
extern unsigned char __heap_base;
static uintptr_t heap, last;

enum { ALIGN = 16, PAGE = 65536 };

// Each block has its size in front of it.
static size_t *size_of(uintptr_t block) { return (size_t *)(block - sizeof(size_t)); }

static int reach(uintptr_t end) {
  size_t have = (size_t)__builtin_wasm_memory_size(0) * PAGE;
  if (end <= have) return 1;
  size_t pages = (end - have + PAGE - 1) / PAGE;
  return __builtin_wasm_memory_grow(0, pages) != SIZE_MAX;
}

void *malloc(size_t size) {
  if (heap == 0) heap = (uintptr_t)&__heap_base;
  uintptr_t block = (heap + sizeof(size_t) + ALIGN - 1) & ~(uintptr_t)(ALIGN - 1);
  if (size > UINTPTR_MAX - PAGE - block || !reach(block + size)) return NULL;
  heap = block + size;
  last = block;
  *size_of(block) = size;
  return (void *)block;
}

// The newest block grows in place.
void *realloc(void *old, size_t size) {
  uintptr_t block = (uintptr_t)old;
  if (old == NULL) return malloc(size);
  if (block == last && size <= UINTPTR_MAX - PAGE - block && reach(block + size)) {
    heap = block + size;
    *size_of(block) = size;
    return old;
  }
  size_t had = *size_of(block);
  void *new = malloc(size);
  if (new != NULL) memcpy(new, old, had < size ? had : size);
  return new;
}

void free(void *block) { (void)block; }

_Noreturn void abort(void) { __builtin_trap(); }

void *memcpy(void *restrict to, const void *restrict from, size_t size) {
  for (size_t at = 0; at < size; at++) ((char *)to)[at] = ((const char *)from)[at];
  return to;
}

void *memmove(void *to, const void *from, size_t size) {
  if ((uintptr_t)to <= (uintptr_t)from) return memcpy(to, from, size);
  for (size_t at = size; at > 0; at--) ((char *)to)[at - 1] = ((const char *)from)[at - 1];
  return to;
}

void *memset(void *block, int byte, size_t size) {
  for (size_t at = 0; at < size; at++) ((char *)block)[at] = (char)byte;
  return block;
}

int memcmp(const void *left, const void *right, size_t size) {
  const unsigned char *l = left, *r = right;
  for (size_t at = 0; at < size; at++)
    if (l[at] != r[at]) return l[at] < r[at] ? -1 : 1;
  return 0;
}

size_t strlen(const char *text) {
  size_t length = 0;
  while (text[length] != 0) length++;
  return length;
}
