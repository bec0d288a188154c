using KtNotebooks.Experts;
using KtNotebooks.Formats;
using KtNotebooks.Interop;
using KtNotebooks.Interop.Cuda;
using KtNotebooks.Models;
using KtNotebooks.Nn;
using KtNotebooks.Placement;
using KtNotebooks.Tensors;
using KtNotebooks.Training;

namespace KtNotebooks.Planning;

/// <summary>Counts a model of shapes, module by module, into a <see cref="MemoryPlan"/>: what loading and training will do by the residency plan.</summary>
internal sealed class PlanBuilder(CausalLm model, ResidencyPlan residency, ConfigFile config, Window window, IReadOnlyDictionary<Device, TrainingMemory> memory,
    TrainingMemoryKeys keys)
{
    /// <summary>What is said behind the format of matrices in the CPU kernels' tiles.</summary>
    private const string Tiles = " tiles";

    private readonly List<(string Pattern, int? Layer, ModulePlace Place, string Format, long Parameters, long Bytes)> _parts = [];
    private readonly Dictionary<(string Device, string What), long> _items = [];
    private long _parameters;
    private long _stored;
    private long _trainable;

    public MemoryPlan Build(string name, IEnumerable<string> notes)
    {
        foreach (var card in residency.Gpus)
        {
            Add(card.Gpu, MemoryPlan.Driver, GpuMemory.DriverBytes);
            if (card.Ring > 0) Add(card.Gpu, MemoryPlan.Ring, card.Ring);
            if (card.Visits > 0) Add(card.Gpu, MemoryPlan.Visits, card.Visits);
            if (residency.Banks.Any(b => b.Place.Weights == WeightHome.Disk && b.Place.Compute == card.Gpu))
                Add(Device.Cpu, MemoryPlan.DiskRing, DiskRing.Bytes);
        }
        foreach (var bank in model.All().OfType<ExpertBank>())
            if (residency.Bank(bank.Path) is { IsBroughtLater: true } lives) bank.Use(new PlannedExperts(lives.Layout, GroupsOf(lives), lives.Place.Compute));
        foreach (var child in model.Children) Walk(child, model);
        if (window.Tokens > 0) CountStep();
        var plan = new MemoryPlan
        {
            Model = name,
            ModelType = model.Info.ModelType,
            Parameters = _parameters,
            Trainable = _trainable,
            TrainsWeights = TrainsWeights,
            Stored = _stored,
            Tokens = window.Tokens,
            Rows = Rows(),
            Items = [.. _items.Select(i => new PlanItem(i.Key.Device, i.Key.What, i.Value)).OrderBy(i => i.Device, StringComparer.Ordinal)
                .ThenBy(i => i.What == MemoryPlan.Ring).ThenBy(i => i.What == MemoryPlan.Driver)],
            Missing = residency.Placement.KernelMissing,
            Notes = [.. residency.Placement.Settings.Notes, .. residency.Notes, .. notes],
        };
        if (plan.Bytes("cpu", MemoryPlan.OnDisk) is > 0 and var onDisk && window.Tokens > 0)
            plan = plan with
            {
                Notes = [.. plan.Notes, $"a step reads {ByteSize.Text(2 * onDisk)} of experts from the disk, less what slots keep"
                    + (plan.Bytes("cpu", MemoryPlan.AdapterOnDisk) > 0 ? ""
                        : "; adapters of experts, with gradients and moments, are in host memory: expert_lora: disk lets them wait on a disk as well")],
            };
        return residency.Placement.Settings.GpuMemoryLimit is not { } limit ? plan
            : plan with { Notes = [.. plan.Notes, .. residency.Gpus.Select(c => c.Gpu.ToString()).Where(c => Ours(c) > limit).Select(TooMuch)] };

        long Ours(string card) => plan.Total(card) - plan.Bytes(card, MemoryPlan.Driver);
        string TooMuch(string card) => $"{card} may need {ByteSize.Text(Ours(card))} beside the driver's own, more than gpu_memory_limit, "
            + $"{ByteSize.Text(limit)}: fewer tokens a step, a smaller chunk_size, or experts: streamed";
    }

    private IReadOnlyList<ExpertGroup> GroupsOf(BankResidency bank) => bank.Place.Executor == ExecutorKind.Resident
        ? ResidentExperts.GroupsOf(bank.Layout, model.Type, ExpertExecutors.DequantizedBytes) : bank.Layout.Groups(bank.GroupBytes);

    private ModulePlace PlaceOf(ExpertBank bank) => residency.Bank(bank.Path)!.Place;

    private void Walk(Module module, Module parent)
    {
        if (module is ExpertBank bank) CountBank(bank);
        else foreach (var (name, tensor) in module.Weights) CountWeight(module, parent, name, tensor);
        foreach (var (name, tensor) in module.Trainable) CountTrained(module, tensor.Count, own: residency.Trains(name));
        foreach (var child in module.Children) Walk(child, module);
    }

    private void CountBank(ExpertBank bank)
    {
        var place = PlaceOf(bank);
        var parameters = bank.Weights.Sum(w => w.Count);
        var (format, layout) = (residency.Bank(bank.Path)!.Format, residency.IsTiled(bank.Path) ? Tiles : "");
        var bytes = bank.Count * ((2 * format.Bytes(bank.Inner, bank.Width)) + format.Bytes(bank.Width, bank.Inner));
        _parameters += parameters;
        var stored = config.StoredFormat ?? StoredType;
        _stored += bank.Count * ((2 * stored.Bytes(bank.Inner, bank.Width)) + stored.Bytes(bank.Width, bank.Inner));
        _parts.Add((Pattern(bank.Path), Layer(bank.Path), place, format.Name + layout, parameters, bytes));
        var asStored = place.Weights == WeightHome.Mmap && format == stored && residency.Bank(bank.Path)?.IsTrained != true;
        foreach (var names in bank.Names.All)
        {
            var (n, k) = names == bank.Names.Down ? (bank.Width, bank.Inner) : (bank.Inner, bank.Width);
            Add(place.Weights == WeightHome.Device ? place.Compute : Device.Cpu,
                place.Weights == WeightHome.Disk ? MemoryPlan.OnDisk : asStored && names.CanStayMapped(stored) ? MemoryPlan.Mapped : MemoryPlan.Weights,
                bank.Count * format.Bytes(n, k));
        }
    }

    private void CountWeight(Module module, Module parent, string name, Tensor tensor)
    {
        var place = residency.Placement.Of(name) with { Weights = residency.HomeOf(name) };
        var group = module is MoeMlp ? name[..name.LastIndexOf('.')] : parent is MlaAttention or GqaAttention or SwiGluMlp ? parent.Path : module.Path;
        _parameters += tensor.Count;
        var format = StorageFormat.Of(tensor.Type).Name + (residency.IsTiled(name) ? Tiles : "");
        _parts.Add((Pattern(group), Layer(group), place, format, tensor.Count, tensor.ByteLength));
        // A tensor stays mapped where it is stored as it is used. FP8 checkpoints have their linear layers as codes, which are dequantized at load; those of 4
        // bits have none but experts.
        var dequantized = config.StoredFormat == StorageFormat.Fp8 && module is Nn.Linear && group != "lm_head";
        _stored += dequantized ? StorageFormat.Fp8.Bytes(tensor.Rows, tensor.Width)
            : tensor.Count * StoredType.Bytes(1, 1);
        var mapped = place.Weights == WeightHome.Mmap && !dequantized && !residency.Trains(name) && StorageFormat.Of(tensor.Type) == StoredType;
        Add(place.Weights == WeightHome.Device ? place.Compute : Device.Cpu, mapped ? MemoryPlan.Mapped : MemoryPlan.Weights, tensor.ByteLength);
    }

    /// <summary>The type of what is not quantised in the checkpoint.</summary>
    private StorageFormat StoredType => config.StoredType == DType.F32 ? StorageFormat.F32 : StorageFormat.BF16;

    /// <summary>An adapter, F32, or weights, which are counted already.</summary>
    private void CountTrained(Module module, long count, bool own)
    {
        var card = residency.Placement.Of(module.Path).Compute;
        var chosen = memory.GetValueOrDefault(card);
        var device = module is ExpertBank && (chosen.LoraOnHost || IsBrought(module)) ? Device.Cpu : card;
        var bytes = count * sizeof(float);
        _trainable += count;
        if (module is ExpertBank && chosen is { LoraOnHost: true, LoraOnDisk: true })
        {
            Add(Device.Cpu, MemoryPlan.AdapterOnDisk, 4 * bytes); // itself, its gradient, two moments
            return;
        }
        if (!own) Add(device, MemoryPlan.Adapter, bytes);
        Add(device, MemoryPlan.Gradients, bytes);
        Add(chosen.MomentsOnHost ? Device.Cpu : device, MemoryPlan.Optimizer, 2 * bytes); // two moments
    }

    /// <summary>finetuning_type: full or freeze: what is written is a model.</summary>
    public bool TrainsWeights { get; init; }

    /// <summary>Trained experts that cross the bus.</summary>
    private bool IsBrought(Module module) => residency.Bank(module.Path) is { IsTrained: true, Place.Executor: ExecutorKind.Streamed };

    /// <summary>
    /// What a step allocates beside parameters: the inputs of stages and head, the gradient on its way down, and the largest stage's workspace.
    /// </summary>
    private void CountStep()
    {
        var input = (long)window.Tokens * model.Info.Width * model.Type.Size();
        var largest = new Dictionary<Device, long>();
        foreach (var stage in model.Stages)
        {
            var rows = stage.All().OfType<ExpertBank>().Any(b => PlaceOf(b).Executor is ExecutorKind.Streamed or ExecutorKind.Split) ? window.Tokens
                : window.Chunk;
            // Pairs that lie on the host come to the card for a visit: they and their gradient are on it then.
            var visitors = stage.All().OfType<ExpertBank>().FirstOrDefault(b => memory.GetValueOrDefault(PlaceOf(b).Compute).LoraOnHost);
            var (card, pairs) = visitors is null ? (Device.Cpu, 0) : (PlaceOf(visitors).Compute, 2 * visitors.Trainable.Sum(p => p.Tensor.ByteLength));
            // Gradients of experts that cross the bus are made in host memory.
            var gradients = stage.All().OfType<ExpertBank>().Where(IsBrought).Sum(b => b.Trainable.Sum(p => p.Tensor.Count * sizeof(float)));
            foreach (var (where, bytes) in Workspace.Of(stage, model, residency.Placement, window, rows))
                largest[where] = Math.Max(largest.GetValueOrDefault(where), bytes - (where == Device.Cpu ? 0 : gradients) + (where == card ? pairs : 0));
            if (gradients > 0) largest[Device.Cpu] = Math.Max(largest.GetValueOrDefault(Device.Cpu), gradients);
        }
        // Pairs that a disk is the home of pass through pinned memory: those of the layer at work, and gradients of the one before.
        var between = model.All().OfType<ExpertBank>().Where(b => memory.GetValueOrDefault(PlaceOf(b).Compute).LoraOnDisk)
            .Select(b => 2 * b.Trainable.Sum(p => p.Tensor.ByteLength)).DefaultIfEmpty().Max();
        if (between > 0) Add(Device.Cpu, MemoryPlan.Visits, between);
        // The input of every stage and of the head; on each card the newest stay as far as they may.
        var last = residency.Placement.Of(model.Stages[^1].Path).Compute;
        Device[] saved = [.. model.Stages.Select(s => residency.Placement.Of(s.Path).Compute), last];
        foreach (var device in saved.GroupBy(d => d))
        {
            var stay = device.Key == Device.Cpu ? device.Count()
                : SavedInputs.OnGpus([.. Enumerable.Repeat(input, device.Count())], memory[device.Key].SavedBytes);
            Add(device.Key, MemoryPlan.Inputs, stay * input);
            if (stay < device.Count()) Add(Device.Cpu, MemoryPlan.Inputs, (device.Count() - stay) * input);
        }
        Add(last, MemoryPlan.Inputs, input); // the gradient on its way down
        if (keys.KeepsActivations)
            foreach (var moe in model.All().OfType<MoeMlp>())
                if (PlaceOf(moe.Experts) is { Executor: ExecutorKind.Cpu } or { Compute.Kind: DeviceKind.Cpu })
                    Add(Device.Cpu, MemoryPlan.Activations, (long)window.Tokens * moe.Settings.TopK * 2 * moe.Experts.Inner * model.Type.Size());
        var head = residency.Placement.Of("lm_head").Compute;
        largest[head] = Math.Max(largest.GetValueOrDefault(head), Workspace.OfHead(model, Math.Min(window.Tokens, LayerMajorStep.HeadRows)));
        foreach (var (device, bytes) in largest)
            Add(device, MemoryPlan.Workspace, bytes + (device.Kind == DeviceKind.Cuda && model.Type == DType.F32 ? CudaMatmul.F32Workspace : 0));
        CountKept();
    }

    /// <summary>Whole passes that wait for backward: see <see cref="StageWork"/>, which of them may.</summary>
    private void CountKept()
    {
        var all = new Dictionary<Device, long>();
        foreach (var stage in model.Stages)
        {
            var device = residency.Placement.Of(stage.Path).Compute;
            var chosen = memory.GetValueOrDefault(device);
            var banks = stage.All().OfType<ExpertBank>().Select(PlaceOf).ToList();
            if (chosen.KeptBytes == 0 || banks.Any(b => chosen.LoraOnHost || b.Executor == ExecutorKind.Split || b.Compute != device)) continue;
            var rows = banks.Any(b => b.Executor == ExecutorKind.Streamed) ? window.Tokens : window.Chunk;
            all[device] = all.GetValueOrDefault(device) + (long)(Workspace.Remembered(stage, model, window, rows) * ((double)window.Tokens / rows));
        }
        foreach (var (device, bytes) in all)
        {
            // They are given up where anything else needs the room; a run asks for its share of host memory when its weights are in.
            var others = _items.Where(i => i.Key.Device == device.ToString() && MemoryPlan.IsHeld(i.Key.What)).Sum(i => i.Value);
            var room = (residency.Gpus.FirstOrDefault(c => c.Gpu == device)?.Bytes ?? HostMemory.Left) - others;
            var budget = device.Kind == DeviceKind.Cuda ? memory[device].KeptBytes : TrainingMemory.OnHost(keys, room).KeptBytes;
            if (Math.Min(Math.Min(bytes, budget), room) is > 0 and var kept) Add(device, MemoryPlan.Activations, kept);
        }
    }

    private void Add(Device device, string what, long bytes) => _items[(device.ToString(), what)] = _items.GetValueOrDefault((device.ToString(), what)) + bytes;

    /// <summary>Like modules of neighbouring layers in one row, in the order in which they first come.</summary>
    private PlanRow[] Rows() =>
    [
        .. from part in _parts
           group part by (part.Pattern, part.Place.Compute, part.Place.Weights, part.Place.Executor, Expert: part.Place.Executor is null
               ? "" : part.Format) into like
           let layers = like.Where(p => p.Layer is not null).Select(p => p.Layer!.Value).Distinct().Order().ToArray()
           let place = like.First().Place
           select new PlanRow(like.Key.Pattern.Replace("{}", Ranges(layers), StringComparison.Ordinal), Math.Max(1, layers.Length), like.Sum(p => p.Parameters),
               place.Compute.ToString(), Word(place.Weights),
               like.MaxBy(p => p.Bytes).Format, place.Executor is { } e ? Word(e) : "", like.Sum(p => p.Bytes), place.Because),
    ];

    private static int? Layer(string path) => path.Split('.').SkipWhile(p => p != "layers").Skip(1).FirstOrDefault() is { } digits ? int.Parse(digits) : null;

    private static string Pattern(string path) => Layer(path) is { } layer ? path.Replace($"layers.{layer}", "layers.{}", StringComparison.Ordinal) : path;

    /// <summary>[0, 1, 2, 5] → "0-2,5".</summary>
    private static string Ranges(int[] numbers)
    {
        var parts = new List<string>();
        for (var i = 0; i < numbers.Length; i++)
        {
            var first = numbers[i];
            while (i + 1 < numbers.Length && numbers[i + 1] == numbers[i] + 1) i++;
            parts.Add(first == numbers[i] ? $"{first}" : $"{first}-{numbers[i]}");
        }
        return string.Join(",", parts);
    }

    private static string Word<T>(T value)
        where T : struct, Enum => value.ToString().ToLowerInvariant();
}
