// The emulated NVRTC: a program's text becomes a shared library of this machine, by g++ and device.h.
#include <dlfcn.h>
#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <memory>
#include <regex>
#include <set>
#include <sstream>
#include <string>
#include <unordered_map>
#include <vector>

namespace {

enum Result { Success = 0, InvalidInput = 3, InvalidProgram = 4, InvalidOption = 5, Compilation = 6 };

struct Program {
    std::string source, name, log, image;
};

std::string folder() {
    Dl_info info;
    dladdr(reinterpret_cast<void*>(&folder), &info);
    std::string path = info.dli_fname;
    return path.substr(0, path.rfind('/'));
}

std::string read(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
}

// Runs a program and gives its exit status; what it says comes back in text.
int run(const std::vector<std::string>& words, std::string& text) {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0) return -1;
    auto child = fork();
    if (child == 0) {
        dup2(ends[1], 1);
        dup2(ends[1], 2);
        std::vector<char*> arguments;
        for (auto& w : words) arguments.push_back(const_cast<char*>(w.c_str()));
        arguments.push_back(nullptr);
        execvp(arguments[0], arguments.data());
        _exit(127);
    }
    close(ends[1]);
    char buffer[4096];
    for (ssize_t n; (n = ::read(ends[0], buffer, sizeof buffer)) > 0;) text.append(buffer, static_cast<size_t>(n));
    close(ends[0]);
    int status = 0;
    waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

// Names and launch bounds of the extern "C" __global__ functions in preprocessed text, as a list of KT_ENTRYs.
std::string entries(const std::string& text) {
    std::string list;
    std::set<std::string> seen;
    for (size_t at = 0; (at = text.find("__global__", at)) != std::string::npos; at += 10) {
        auto begin = text.find_last_of(";{}", at);
        begin = begin == std::string::npos ? 0 : begin + 1;
        if (text.substr(begin, at - begin).find("extern \"C\"") == std::string::npos) continue;
        std::string word, bounds;
        for (auto i = begin; i < text.size() && text[i] != ';' && text[i] != '{'; i++) {
            if (isalnum(static_cast<unsigned char>(text[i])) || text[i] == '_') {
                word = i > begin && (isalnum(static_cast<unsigned char>(text[i - 1])) || text[i - 1] == '_') ? word + text[i]
                                                                                                             : std::string(1, text[i]);
            } else if (text[i] == '(') {
                if (word != "__launch_bounds__") break;
                auto first = i + 1;
                int depth = 1;
                while (depth > 0 && ++i < text.size()) depth += text[i] == '(' ? 1 : text[i] == ')' ? -1 : 0;
                bounds = text.substr(first, i - first);
            }
        }
        if (seen.insert(word).second) list += "    KT_ENTRY(" + word + (bounds.empty() ? "" : ", " + bounds) + "),\n";
    }
    return list;
}

// g++'s words for the one thing that everybody meets, as NVRTC says it.
std::string in_nvrtc_words(const std::string& log) {
    static const std::regex undeclared("'(\\w+)' was not declared in this scope[^\n]*");
    return std::regex_replace(log, undeclared, "identifier \"$1\" is undefined");
}

int compile(Program& program, const std::vector<std::string>& options) {
    std::vector<std::string> defines;
    for (size_t i = 0; i < options.size(); i++) {
        auto& o = options[i];
        if (o.rfind("-D", 0) == 0 || o.rfind("-U", 0) == 0) {
            defines.push_back(o);
        } else if (o.rfind("-arch=", 0) == 0 || o.rfind("--gpu-architecture=", 0) == 0) {
            auto digits = o.find_first_of("0123456789");
            if (digits == std::string::npos) return InvalidOption;
            defines.push_back("-D__CUDA_ARCH__=" + o.substr(digits, 2) + "0");
        } else if (o.rfind("-std=", 0) != 0 && o != "-lineinfo" && o != "--use_fast_math" && o.rfind("--fmad=", 0) != 0 &&
                   o.rfind("--maxrregcount", 0) != 0 && o.rfind("--ptxas-options", 0) != 0 && o != "-default-device") {
            program.log = "nvrtc: error: unrecognized option '" + o + "' [emulated]";
            return InvalidOption;
        }
    }
    char scratch[] = "/tmp/kt-emulated-nvrtc-XXXXXX";
    if (!mkdtemp(scratch)) return 2;
    std::string here = folder(), base = std::string(scratch) + "/program", raw = base + ".raw.cpp", full = base + ".cpp",
                image = base + ".so";
    auto remove = [&] {
        for (auto& f : {raw, full, image}) unlink(f.c_str());
        rmdir(scratch);
    };
    std::ofstream(raw) << program.source;
    std::vector<std::string> words = {"env", "LC_ALL=C", "g++", "-E", "-P", "-w", "-std=c++17", "-DKT_EMULATED"};
    words.insert(words.end(), defines.begin(), defines.end());
    words.push_back(raw);
    std::string text;
    if (run(words, text) != 0) {
        program.log = text.empty() ? "g++ does not run" : text;
        remove();
        return Compilation;
    }
    std::ofstream(full)
        << "#include \"device.h\"\nnamespace {\n#line 1 \"" << program.name << "\"\n"
        << program.source << "\n#line 1 \"kt_entries\"\nconst KtEntry kt_list[] = {\n"
        << entries(text) << "    {}\n};\n}\n"
        << "extern \"C\" {\n#define KT_EXPORT __attribute__((visibility(\"default\"), used))\n"
        << "extern unsigned char __start_ktshared[] __attribute__((weak, visibility(\"hidden\")));\nextern unsigned char __stop_ktshared[] "
           "__attribute__((weak, visibility(\"hidden\")));\n"
        << "KT_EXPORT const KtEntry* kt_entries = kt_list;\nKT_EXPORT unsigned int kt_entry_count = sizeof kt_list / sizeof *kt_list - 1;\n"
        << "KT_EXPORT unsigned char* kt_shared_begin = __start_ktshared;\nKT_EXPORT unsigned char* kt_shared_end = __stop_ktshared;\n}\n";
    // -fsanitize: a misaligned access or an index outside an array calls the emulator (sanitizer.cpp), which ends the launch. A local
    // variable that is read before it is written holds a pattern.
    words = {"env",
             "LC_ALL=C",
             "g++",
             "-shared",
             "-fPIC",
             "-O2",
             "-march=native",
             "-ffp-contract=fast",
             "-std=c++17",
             "-w",
             "-fno-gnu-unique",
             "-fvisibility=hidden",
             "-fno-exceptions",
             "-fno-strict-aliasing",
             "-fno-stack-protector",
             "-fsanitize=alignment,bounds",
             "-fno-sanitize-recover=all",
             "-ftrivial-auto-var-init=pattern",
             "-fno-sanitize=vptr",
             "-fdiagnostics-color=never",
             "-I",
             here};
    words.insert(words.end(), defines.begin(), defines.end());
    for (auto& w : {full, std::string("-o"), image, std::string("-nostdlib"), here + "/libcuda.so.1", std::string("-lm"),
                    std::string("-lc"), std::string("-lgcc")})
        words.push_back(w);
    text.clear();
    int status = run(words, text);
    program.log = in_nvrtc_words(text);
    if (status == 0) program.image = read(image);
    if (!getenv("KT_EMULATED_KEEP")) remove();
    return status == 0 && !program.image.empty() ? Success : Compilation;
}

std::unordered_map<void*, std::unique_ptr<Program>>& programs() {
    static auto all = new std::unordered_map<void*, std::unique_ptr<Program>>();
    return *all;
}

Program* find(void* p) {
    auto found = programs().find(p);
    return found == programs().end() ? nullptr : found->second.get();
}

}  // namespace

extern "C" {

// 13.N, where N is different from all real ones and changes with what goes into a program: images are cached by it.
int nvrtcVersion(int* major, int* minor) {
    unsigned hash = 2166136261u;
    for (auto file : {"/device.h", "/warp.h", "/runtime.h", "/libnvrtc.so.13"})
        for (unsigned char c : read(folder() + file)) hash = (hash ^ c) * 16777619u;
    *major = 13;
    *minor = 1000 + static_cast<int>(hash % 900000000u);
    return Success;
}

const char* nvrtcGetErrorString(int result) {
    switch (result) {
        case Success:
            return "NVRTC_SUCCESS";
        case InvalidInput:
            return "NVRTC_ERROR_INVALID_INPUT";
        case InvalidProgram:
            return "NVRTC_ERROR_INVALID_PROGRAM";
        case InvalidOption:
            return "NVRTC_ERROR_INVALID_OPTION";
        case Compilation:
            return "NVRTC_ERROR_COMPILATION";
        default:
            return "NVRTC_ERROR_INTERNAL_ERROR";
    }
}

int nvrtcGetNumSupportedArchs(int* count) {
    *count = 4;
    return Success;
}

int nvrtcGetSupportedArchs(int* architectures) {
    int all[] = {80, 86, 89, 90};
    memcpy(architectures, all, sizeof all);
    return Success;
}

int nvrtcCreateProgram(void** program, const char* source, const char* name, int headers, const char* const*, const char* const*) {
    if (headers != 0 || !source) return InvalidInput;
    auto made = std::make_unique<Program>();
    made->source = source;
    made->name = name ? name : "default_program";
    *program = made.get();
    programs()[*program] = std::move(made);
    return Success;
}

int nvrtcDestroyProgram(void** program) {
    int result = programs().erase(*program) ? Success : InvalidProgram;
    *program = nullptr;
    return result;
}

int nvrtcCompileProgram(void* program, int count, const char* const* options) {
    auto p = find(program);
    return p ? compile(*p, std::vector<std::string>(options, options + count)) : InvalidProgram;
}

int nvrtcGetProgramLogSize(void* program, size_t* bytes) {
    auto p = find(program);
    if (!p) return InvalidProgram;
    *bytes = p->log.size() + 1;
    return Success;
}

int nvrtcGetProgramLog(void* program, char* text) {
    auto p = find(program);
    if (!p) return InvalidProgram;
    memcpy(text, p->log.c_str(), p->log.size() + 1);
    return Success;
}

int nvrtcGetCUBINSize(void* program, size_t* bytes) {
    auto p = find(program);
    if (!p) return InvalidProgram;
    *bytes = p->image.size();
    return Success;
}

int nvrtcGetCUBIN(void* program, char* image) {
    auto p = find(program);
    if (!p) return InvalidProgram;
    memcpy(image, p->image.data(), p->image.size());
    return Success;
}

int nvrtcGetPTXSize(void* program, size_t* bytes) { return nvrtcGetCUBINSize(program, bytes); }
int nvrtcGetPTX(void* program, char* image) { return nvrtcGetCUBIN(program, image); }
}
