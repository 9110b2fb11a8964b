# ggml builds its CPU kernels fourteen times, once for each processor family. Six of them are never
# loaded (engine/cpu.rs): those with AMX code crash on some virtual machines, the others are no
# faster than a neighbour. They become empty libraries, which saves minutes of the first build.
# CMake runs this file after every project(), see .cargo/config.toml.
if (PROJECT_NAME STREQUAL "ggml")
    file(WRITE "${CMAKE_BINARY_DIR}/unused.c" "int stent_unused_kernels;\n")
    function(stent_empty_unused_kernels)
        foreach (family x64 ivybridge piledriver cannonlake cooperlake sapphirerapids)
            if (TARGET ggml-cpu-${family})
                set_property(TARGET ggml-cpu-${family} PROPERTY SOURCES "${CMAKE_BINARY_DIR}/unused.c")
            endif()
        endforeach()
    endfunction()
    cmake_language(DEFER CALL stent_empty_unused_kernels)
endif()

# llama.cpp's common code can fetch models over HTTPS, which Stent does by itself: where OpenSSL's headers
# lie about, it would be linked for nothing, and a package would not run where OpenSSL is missing.
if (PROJECT_NAME STREQUAL "llama.cpp")
    set(LLAMA_OPENSSL OFF CACHE BOOL "llama: use openssl to support HTTPS" FORCE)
endif()
