/* CUDA's driver for a GPU that is not there, as far as Triton and Inductor ask it: real cubins are loaded, of which it
   reads what a kernel's code needs, and launching one counts it. See runtime.c. */
#include <cuda.h>
#include <elf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

long stand_in_triton_kernels = 0;

static int setting(const char *name, int otherwise) {
  char *value = getenv(name);
  return value ? atoi(value) : otherwise;
}

CUresult cuDriverGetVersion(int *version) { return *version = setting("STAND_IN_DRIVER", 13000), CUDA_SUCCESS; }
CUresult cuDeviceGetCount(int *count) { return *count = setting("STAND_IN_GPUS", 1), CUDA_SUCCESS; }
CUresult cuDeviceGet(CUdevice *device, int i) { return *device = i, CUDA_SUCCESS; }
CUresult cuDeviceGetUuid(CUuuid *id, CUdevice device) { return memset(id, device, sizeof *id), CUDA_SUCCESS; }
CUresult cuCtxGetCurrent(CUcontext *context) { return *context = (CUcontext)0x1000, CUDA_SUCCESS; }
CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device) { return cuCtxGetCurrent(context); }
CUresult cuCtxGetDevice(CUdevice *device) { return *device = 0, CUDA_SUCCESS; }
CUresult cuDevicePrimaryCtxGetState(CUdevice d, unsigned *flags, int *active) { return *flags = 0, *active = 1, CUDA_SUCCESS; }
CUresult cuCtxGetLimit(size_t *value, CUlimit limit) { return *value = 0, CUDA_SUCCESS; }
CUresult cuGetErrorString(CUresult error, const char **text) { return *text = "stand-in", CUDA_SUCCESS; }
CUresult cuGetErrorName(CUresult error, const char **text) { return *text = "stand-in", CUDA_SUCCESS; }
CUresult cuDeviceGetAttribute(int *value, CUdevice_attribute attribute, CUdevice device) {
  switch (attribute) {
  case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: *value = setting("STAND_IN_CAPABILITY", 90) / 10; break;
  case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR: *value = setting("STAND_IN_CAPABILITY", 90) % 10; break;
  case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT: *value = 132; break;
  case CU_DEVICE_ATTRIBUTE_WARP_SIZE: *value = 32; break;
  case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK: *value = 1024; break;
  case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR: *value = 2048; break;
  case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK: *value = 49152; break;
  case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN: *value = 232448; break;
  case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR: *value = 233472; break;
  case CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK: case CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_MULTIPROCESSOR: *value = 65536; break;
  case CU_DEVICE_ATTRIBUTE_CLOCK_RATE: *value = 1980000; break;
  case CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE: *value = 2619000; break;
  case CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH: *value = 5120; break;
  default: *value = 0;
  }
  return CUDA_SUCCESS;
}

/* A module is what is read of its one kernel: how many registers it takes decides what Inductor tries. */
static CUresult read_cubin(CUmodule *module, const unsigned char *cubin) {
  int *registers = calloc(1, sizeof(int));
  *registers = 40;
  const Elf64_Ehdr *header = (const Elf64_Ehdr *)cubin;
  if (!memcmp(cubin, ELFMAG, SELFMAG)) {
    const Elf64_Shdr *sections = (const Elf64_Shdr *)(cubin + header->e_shoff);
    const char *names = (const char *)cubin + sections[header->e_shstrndx].sh_offset;
    for (int i = 0; i < header->e_shnum; i++)
      if (!strncmp(names + sections[i].sh_name, ".text.", 6)) *registers = sections[i].sh_info >> 24;
  }
  return *module = (CUmodule)registers, CUDA_SUCCESS;
}
CUresult cuModuleLoadData(CUmodule *module, const void *cubin) { return read_cubin(module, cubin); }
CUresult cuModuleLoadDataEx(CUmodule *module, const void *cubin, unsigned n, CUjit_option *options, void **values) {
  return read_cubin(module, cubin);
}
CUresult cuModuleLoad(CUmodule *module, const char *path) {
  FILE *file = fopen(path, "rb");
  if (!file) return CUDA_ERROR_FILE_NOT_FOUND;
  fseek(file, 0, SEEK_END);
  long size = ftell(file);
  unsigned char *cubin = malloc(size);
  rewind(file);
  CUresult result = fread(cubin, 1, size, file) == size ? read_cubin(module, cubin) : CUDA_ERROR_INVALID_IMAGE;
  return free(cubin), fclose(file), result;
}
CUresult cuModuleGetFunction(CUfunction *f, CUmodule module, const char *name) { return *f = (CUfunction)module, CUDA_SUCCESS; }
CUresult cuFuncGetAttribute(int *value, CUfunction_attribute attribute, CUfunction f) {
  *value = attribute == CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK ? 1024 : attribute == CU_FUNC_ATTRIBUTE_NUM_REGS ? *(int *)f : 0;
  return CUDA_SUCCESS;
}
CUresult cuOccupancyMaxActiveClusters(int *n, CUfunction f, const CUlaunchConfig *config) { return *n = 66, CUDA_SUCCESS; }
CUresult cuOccupancyMaxActiveBlocksPerMultiprocessor(int *n, CUfunction f, int block, size_t shared) { return *n = 2, CUDA_SUCCESS; }
static CUresult count(void) { return __sync_fetch_and_add(&stand_in_triton_kernels, 1), CUDA_SUCCESS; }
CUresult cuLaunchKernel(CUfunction f, unsigned a, unsigned b, unsigned c, unsigned d, unsigned e, unsigned g, unsigned shared,
                        CUstream s, void **parameters, void **extra) { return count(); }
CUresult cuLaunchKernelEx(const CUlaunchConfig *config, CUfunction f, void **parameters, void **extra) { return count(); }
CUresult cuPointerGetAttribute(void *value, CUpointer_attribute attribute, CUdeviceptr address) {
  if (attribute == CU_POINTER_ATTRIBUTE_DEVICE_POINTER) *(CUdeviceptr *)value = address;
  else *(int *)value = 0;
  return CUDA_SUCCESS;
}
