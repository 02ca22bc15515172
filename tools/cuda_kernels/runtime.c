/* A CUDA runtime without a GPU: memory is the host's, copies are memcpy, kernels compute nothing.

   It gives onnxruntime's CUDA provider what it asks for while it loads a model, so that the provider says which nodes it
   takes. Everything that is not here returns 0 (tools/cuda_kernels/build.py adds those). */
#include <stdlib.h>
#include <string.h>

int cudaGetDeviceCount(int *count) { *count = 1; return 0; }
int cudaGetDevice(int *device) { *device = 0; return 0; }
int cudaRuntimeGetVersion(int *version) { *version = CUDA_MAJOR * 1000; return 0; }
int cudaDriverGetVersion(int *version) { *version = CUDA_MAJOR * 1000; return 0; }
int cudaMemGetInfo(size_t *free_bytes, size_t *total) { *free_bytes = (size_t)64 << 30; *total = (size_t)80 << 30; return 0; }

/* Compute capability 9.0, 132 multiprocessors, warps of 32; offsets of cudaDeviceProp in CUDA 12 and 13. */
static int properties(char *p) {
  memset(p, 0, 1008);
  strcpy(p, "no GPU");
  *(size_t *)(p + 288) = (size_t)80 << 30;
  *(size_t *)(p + 296) = 49152;
  *(int *)(p + 304) = 65536;
  *(int *)(p + 308) = 32;
  *(int *)(p + 320) = 1024;
  for (int i = 324; i < 348; i += 4) *(int *)(p + i) = 65535;
  *(int *)(p + 360) = 9;
  for (int i = 384; i < 400; i += 4) *(int *)(p + i) = 132;
  return 0;
}
int cudaGetDeviceProperties(char *p, int device) { return properties(p); }
int cudaGetDeviceProperties_v2(char *p, int device) { return properties(p); }
int cudaDeviceGetAttribute(int *value, int attribute, int device) {
  *value = attribute == 75 ? 9 : attribute == 76 ? 0 : attribute == 16 ? 132 : attribute == 39 ? 2048 : 1;
  return 0;
}

int cudaMalloc(void **p, size_t n) { *p = aligned_alloc(256, (n + 256) / 256 * 256); memset(*p, 0, n); return 0; }
int cudaMallocHost(void **p, size_t n) { return cudaMalloc(p, n); }
int cudaHostAlloc(void **p, size_t n, unsigned flags) { return cudaMalloc(p, n); }
int cudaMallocFromPoolAsync(void **p, size_t n, void *pool, void *stream) { return cudaMalloc(p, n); }
int cudaFree(void *p) { free(p); return 0; }
int cudaFreeHost(void *p) { free(p); return 0; }
int cudaFreeAsync(void *p, void *stream) { free(p); return 0; }
int cudaMemcpy(void *to, const void *from, size_t n, int kind) { memcpy(to, from, n); return 0; }
int cudaMemcpyAsync(void *to, const void *from, size_t n, int kind, void *stream) { memcpy(to, from, n); return 0; }
int cudaMemset(void *p, int value, size_t n) { memset(p, value, n); return 0; }
int cudaMemsetAsync(void *p, int value, size_t n, void *stream) { memset(p, value, n); return 0; }
int cudaPointerGetAttributes(int *attributes, const void *p) { memset(attributes, 0, 24); return 0; }
int cudaFuncGetAttributes(char *attributes, const void *function) { memset(attributes, 0, 80); return 0; }
int cudaStreamIsCapturing(void *stream, int *status) { *status = 0; return 0; }
int cudaStreamEndCapture(void *stream, void **graph) { static char object[64]; *graph = object; return 0; }
int cudaGraphInstantiate(void **replay, void *graph, unsigned long long flags) { return cudaStreamEndCapture(0, replay); }
int cudaEventElapsedTime(float *milliseconds, void *from, void *to) { *milliseconds = 1; return 0; }
int cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *blocks) { *blocks = 1; return 0; }
const char *cudaGetErrorName(int error) { return "no GPU"; }
const char *cudaGetErrorString(int error) { return "no GPU"; }
void *__cudaRegisterFatBinary(void *binary) { static char handle[64]; return handle; }
