# Third-party libraries as plain targets, archives where Debian and Ubuntu have them: the program then needs only libmpi
# and the C library at run time. Names of upstream CMake targets differ between releases; archives do not.
find_package(PkgConfig REQUIRED)
find_package(Threads REQUIRED)
find_package(OpenMP REQUIRED)
set(MNEME_LIBRARY_FOLDERS /usr/lib/x86_64-linux-gnu /usr/lib /usr/local/lib)

function(mneme_archive variable name)
  # A folder that the caller names comes first: the plain name may lead to another flavour.
  if(ARGN)
    find_library(${variable} NAMES ${name} ${ARGN})
  else()
    find_library(${variable} NAMES ${name} PATHS ${MNEME_LIBRARY_FOLDERS})
  endif()
  if(NOT ${variable})
    message(FATAL_ERROR "${name} not found: run launch/install.sh")
  endif()
endfunction()

# Abseil: Status and Span everywhere; pkg-config knows the closure of archives.
pkg_check_modules(ABSL REQUIRED absl_status absl_statusor absl_flat_hash_map absl_strings absl_span absl_time)
add_library(mneme_absl INTERFACE)
target_include_directories(mneme_absl SYSTEM INTERFACE ${ABSL_INCLUDE_DIRS})
set(absl_archives)
foreach(library IN LISTS ABSL_STATIC_LIBRARIES)
  if(library MATCHES "^absl_")
    list(APPEND absl_archives -l${library})
  endif()
endforeach()
target_link_libraries(mneme_absl INTERFACE -Wl,-Bstatic -Wl,--start-group ${absl_archives} -Wl,--end-group -Wl,-Bdynamic
                                           Threads::Threads)

mneme_archive(YAML_ARCHIVE libyaml-cpp.a)
add_library(mneme_yaml INTERFACE)
target_link_libraries(mneme_yaml INTERFACE ${YAML_ARCHIVE})

# Serial HDF5 beside any parallel flavour: Debian keeps it in a folder of its own.
mneme_archive(HDF5_ARCHIVE libhdf5.a PATHS /usr/lib/x86_64-linux-gnu/hdf5/serial NO_DEFAULT_PATH)
find_path(HDF5_SERIAL_INCLUDE hdf5.h PATHS /usr/include/hdf5/serial NO_DEFAULT_PATH REQUIRED)
mneme_archive(SZ_ARCHIVE libsz.a)
mneme_archive(AEC_ARCHIVE libaec.a)
mneme_archive(Z_ARCHIVE libz.a)
add_library(mneme_hdf5 INTERFACE)
target_include_directories(mneme_hdf5 SYSTEM INTERFACE ${HDF5_SERIAL_INCLUDE})
add_library(mneme_zlib INTERFACE)
target_link_libraries(mneme_zlib INTERFACE ${Z_ARCHIVE})
target_link_libraries(mneme_hdf5 INTERFACE ${HDF5_ARCHIVE} ${SZ_ARCHIVE} ${AEC_ARCHIVE} ${Z_ARCHIVE} ${CMAKE_DL_LIBS} m)

# OpenBLAS built on OpenMP, by path: the plain name may lead to the pthread flavour, which oversubscribes.
mneme_archive(OPENBLAS_ARCHIVE libopenblas.a PATHS /usr/lib/x86_64-linux-gnu/openblas-openmp NO_DEFAULT_PATH)
find_path(OPENBLAS_INCLUDE cblas.h PATHS /usr/include/x86_64-linux-gnu/openblas-openmp NO_DEFAULT_PATH REQUIRED)
find_library(GFORTRAN NAMES libgfortran.so.5 gfortran PATHS ${MNEME_LIBRARY_FOLDERS})
add_library(mneme_blas INTERFACE)
target_include_directories(mneme_blas SYSTEM INTERFACE ${OPENBLAS_INCLUDE})
target_link_libraries(mneme_blas INTERFACE ${OPENBLAS_ARCHIVE} OpenMP::OpenMP_CXX m)

# MPI: the C interface only; the removed C++ bindings must neither be linked nor included.
set(MPI_CXX_SKIP_MPICXX TRUE)
find_package(MPI REQUIRED COMPONENTS C)
add_library(mneme_mpi INTERFACE)
target_compile_definitions(mneme_mpi INTERFACE OMPI_SKIP_MPICXX)
target_link_libraries(mneme_mpi INTERFACE MPI::MPI_C)

mneme_archive(UTF8PROC_ARCHIVE libutf8proc.a)
add_library(mneme_utf8proc INTERFACE)
target_link_libraries(mneme_utf8proc INTERFACE ${UTF8PROC_ARCHIVE})

# Headers of the GPU half that no Debian package holds: launch/fetch_headers.sh puts them into third_party/.
function(mneme_fetched_headers target folder)
  set(include ${PROJECT_SOURCE_DIR}/third_party/${folder}/include)
  if(NOT EXISTS ${include})
    message(FATAL_ERROR "third_party/${folder} not found: run launch/fetch_headers.sh")
  endif()
  add_library(${target} INTERFACE)
  target_include_directories(${target} SYSTEM INTERFACE ${include})
endfunction()
if(MNEME_GPU)
  mneme_fetched_headers(mneme_cudnn_frontend cudnn_frontend)

  # CUDA: the runtime and cuBLASLt, shared, as the toolkit has them.
  find_package(CUDAToolkit 12.4 REQUIRED)
  add_library(mneme_cuda INTERFACE)
  target_include_directories(mneme_cuda SYSTEM INTERFACE ${CUDAToolkit_INCLUDE_DIRS})
  target_link_libraries(mneme_cuda INTERFACE CUDA::cudart CUDA::cublasLt)

  # cuDNN 9 and its C++ frontend, which kernels/gpu/cudnn.cc alone includes.
  find_library(CUDNN_LIBRARY NAMES cudnn libcudnn.so.9 HINTS ${CUDAToolkit_LIBRARY_DIR} REQUIRED)
  add_library(mneme_cudnn INTERFACE)
  target_compile_definitions(mneme_cudnn INTERFACE CUDNN_FRONTEND_SKIP_JSON_LIB)
  target_link_libraries(mneme_cudnn INTERFACE mneme_cudnn_frontend ${CUDNN_LIBRARY})

  # NCCL, which parallel/nccl_comm.cc alone includes. Without it a run on GPUs has one rank.
  find_path(NCCL_INCLUDE nccl.h HINTS ${CUDAToolkit_INCLUDE_DIRS})
  find_library(NCCL_LIBRARY NAMES nccl libnccl.so.2 HINTS ${CUDAToolkit_LIBRARY_DIR})
  if(NCCL_INCLUDE AND NCCL_LIBRARY)
    add_library(mneme_nccl INTERFACE)
    target_include_directories(mneme_nccl SYSTEM INTERFACE ${NCCL_INCLUDE})
    target_link_libraries(mneme_nccl INTERFACE mneme_cuda ${NCCL_LIBRARY})
  else()
    message(STATUS "NCCL not found: the program will use one GPU (libnccl-dev)")
  endif()
endif()
