# SPDX-License-Identifier: MIT
# Libraries, all from Debian/Ubuntu. One interface target carries them.
find_package(PkgConfig REQUIRED)
find_package(Threads REQUIRED)
pkg_check_modules(JANSSON REQUIRED IMPORTED_TARGET jansson)
pkg_check_modules(ZSTD REQUIRED IMPORTED_TARGET libzstd)
pkg_check_modules(ISAL REQUIRED IMPORTED_TARGET libisal)
pkg_check_modules(ZLIB REQUIRED IMPORTED_TARGET zlib)
pkg_check_modules(XXHASH REQUIRED IMPORTED_TARGET libxxhash)
pkg_check_modules(SQLITE3 REQUIRED IMPORTED_TARGET sqlite3)
find_path(DNNL_INCLUDE dnnl.h REQUIRED)
find_library(DNNL_LIB dnnl REQUIRED)
find_library(GOMP_LIB NAMES gomp libgomp.so.1 PATHS /usr/lib/gcc/x86_64-linux-gnu/12)
pkg_check_modules(HDF5 IMPORTED_TARGET hdf5-serial)
if(NOT HDF5_FOUND)
  pkg_check_modules(HDF5 REQUIRED IMPORTED_TARGET hdf5)
endif()

add_library(vnp_deps INTERFACE)
target_link_libraries(vnp_deps INTERFACE PkgConfig::JANSSON PkgConfig::ZSTD PkgConfig::ISAL PkgConfig::ZLIB
  PkgConfig::XXHASH PkgConfig::SQLITE3 PkgConfig::HDF5 ${DNNL_LIB} Threads::Threads m ${CMAKE_DL_LIBS})
target_include_directories(vnp_deps SYSTEM INTERFACE ${DNNL_INCLUDE})
