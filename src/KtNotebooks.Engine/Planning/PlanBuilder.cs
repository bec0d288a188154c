using KtNotebooks.Experts;
using KtNotebooks.Formats;
using KtNotebooks.Interop.Cuda;
using KtNotebooks.Models;
using KtNotebooks.Nn;
using KtNotebooks.Placement;
using KtNotebooks.Tensors;
using KtNotebooks.Training;

namespace KtNotebooks.Planning;

/// <summary>Counts a model of shapes, module by module, into a <see cref="MemoryPlan"/>.</summary>
internal sealed class PlanBuilder(CausalLm model, ModelPlacement placement, ConfigFile config, Window window)
{
    /// <summary>Of a card that is not in this machine, when nobody says its size: what most people have.</summary>
    private const long AssumedBytes = 24_000_000_000;

    private readonly List<(string Pattern, int? Layer, ModulePlace Place, string Format, long Parameters, long Bytes)> _parts = [];
    private readonly Dictionary<(string Device, string What), long> _items = [];
    private readonly Dictionary<string, ExpertBank> _banks = model.All().OfType<ExpertBank>().ToDictionary(b => b.Path);
    private readonly Dictionary<string, ModulePlace> _placed = [];
    private readonly List<string> _notes = [.. placement.Settings.Notes];
    private readonly Dictionary<Device, TrainingMemory> _memory = [];
    private long _parameters;
    private long _stored;
    private long _trainable;

    private StorageFormat OwnFormat => StorageFormat.Of(model.Type);

    public MemoryPlan Build(string name)
    {
        var taken = PlaceExperts();
        foreach (var card in placement.Devices.Where(d => d.Kind == DeviceKind.Cuda))
            _memory[card] = Training(card, CardBytes(card) - taken.GetValueOrDefault(card));
        foreach (var child in model.Children) Walk(child, model);
        if (window.Tokens > 0) CountStep();
        var plan = new MemoryPlan
        {
            Model = name,
            ModelType = model.Info.ModelType,
            Parameters = _parameters,
            Trainable = _trainable,
            Stored = _stored,
            Tokens = window.Tokens,
            Rows = Rows(),
            Items = [.. _items.Select(i => new PlanItem(i.Key.Device, i.Key.What, i.Value)).OrderBy(i => i.Device, StringComparer.Ordinal)
                .ThenBy(i => i.What == MemoryPlan.Ring)],
            Notes = [],
        };
        if (placement.Settings.GpuMemoryLimit is { } limit)
            foreach (var device in plan.Devices.Where(d => d != Device.Cpu.ToString() && plan.Total(d) > limit))
                _notes.Add($"{device} may need {plan.Total(device) / 1e9:F1} GB, more than gpu_memory_limit, {limit / 1e9:F1} GB: fewer tokens a step, a "
                    + "smaller chunk_size, or experts: streamed");
        return plan with { Notes = _notes };
    }

    /// <summary>
    /// Decides for the experts of every card as a run does (<see cref="ExpertPlacer"/>), when all other weights are on it. Returns what weights and experts
    /// take of the cards.
    /// </summary>
    private Dictionary<Device, long> PlaceExperts()
    {
        var taken = model.All().Where(m => m is not ExpertBank).SelectMany(m => m.Weights).Select(w => (Place: placement.Of(w.Name), w.Tensor.ByteLength))
            .Where(w => w.Place.Weights == WeightHome.Device)
            .GroupBy(w => w.Place.Compute).ToDictionary(g => g.Key, g => g.Sum(w => w.ByteLength));
        foreach (var group in _banks.Values.Select(b => (Bank: b, Place: placement.Of(b.Path))).Where(b => PlacedWeights.IsBroughtLater(b.Place))
            .GroupBy(b => (b.Place.Compute, Kind: b.Place.Executor!.Value)))
        {
            var (card, kind) = group.Key;
            BankLayout[] layouts = [.. group.Select(b => LayoutOf(b.Bank))];
            var (stored, room) = (layouts.Sum(l => l.Bytes), CardBytes(card) - taken.GetValueOrDefault(card));
            var share = ExpertShare.Of(kind, stored, room);
            if (kind == ExecutorKind.Auto) _notes.Add(share.Because(card, stored, room));
            if (kind != ExecutorKind.Resident && CardOf(card) is null && placement.Settings.GpuMemoryLimit is null)
                _notes.Add($"{card} is not here: what experts get of it is counted for a card of {AssumedBytes / 1e9:F0} GB; gpu_memory_limit says another "
                    + "size");
            var resident = share.Executor == ExecutorKind.Resident;
            var (groupBytes, slots) = resident ? (stored, 1) : ExpertExecutors.SlotsOf(layouts, share.SlotBytes, share.Executor == ExecutorKind.Split);
            if (!resident) Add(card, MemoryPlan.Ring, groupBytes * slots);
            taken[card] = taken.GetValueOrDefault(card) + (groupBytes * slots);
            foreach (var ((bank, place), layout) in group.Zip(layouts))
            {
                bank.PlanOn(new PlannedExperts(layout, resident ? ResidentExperts.GroupsOf(layout, model.Type, ExpertExecutors.DequantizedBytes)
                    : layout.Groups(groupBytes)));
                _placed[bank.Path] = kind != ExecutorKind.Auto ? place
                    : place with { Executor = share.Executor, Weights = resident ? WeightHome.Device : WeightHome.Host };
            }
        }
        return taken;
    }

    /// <summary>
    /// Decides for what training adds as a run does. What the CPU would take of split experts is measured when they are loaded; here it takes nothing.
    /// </summary>
    private TrainingMemory Training(Device card, long room)
    {
        double Trained(bool experts) => model.All().Where(m => m is ExpertBank == experts && m.Trainable.Any() && placement.Of(m.Path).Compute == card)
            .Sum(m => m.Trainable.Sum(p => (double)p.Tensor.Count));
        return TrainingMemory.Of(room, Trained(false), Trained(true), wantedOnHost: false, window.Memory);
    }

    /// <summary>What a card can give: its own limit, and what is free on it now where it is in this machine.</summary>
    private long CardBytes(Device card) =>
        Math.Min(placement.Settings.GpuMemoryLimit ?? long.MaxValue, CardOf(card)?.FreeBytes ?? placement.Settings.GpuMemoryLimit ?? AssumedBytes);

    private static CudaDevice? CardOf(Device card) => CudaDevice.Missing is null && card.Index < CudaDevice.Count ? CudaDevice.Get(card.Index) : null;

    private ModulePlace PlaceOf(ExpertBank bank) => _placed.TryGetValue(bank.Path, out var place) ? place : placement.Of(bank.Path);

    private void Walk(Module module, Module parent)
    {
        if (module is ExpertBank bank) CountBank(bank);
        else foreach (var (name, tensor) in module.Weights) CountWeight(module, parent, name, tensor);
        foreach (var (_, tensor) in module.Trainable) CountTrained(module, tensor.ByteLength, tensor.Count);
        foreach (var child in module.Children) Walk(child, module);
    }

    private void CountBank(ExpertBank bank)
    {
        var place = PlaceOf(bank);
        var parameters = bank.Weights.Sum(w => w.Count);
        var format = FormatOf(bank);
        var bytes = bank.Count * ((2 * format.Bytes(bank.Inner, bank.Width)) + format.Bytes(bank.Width, bank.Inner));
        _parameters += parameters;
        var stored = config.StoredFormat ?? StoredType;
        _stored += bank.Count * ((2 * stored.Bytes(bank.Inner, bank.Width)) + stored.Bytes(bank.Width, bank.Inner));
        _parts.Add((Pattern(bank.Path), Layer(bank.Path), place, format.Name, parameters, bytes));
        var mapped = place.Weights == WeightHome.Mmap && format == (config.StoredFormat ?? StoredType);
        Add(place.Weights == WeightHome.Device ? place.Compute : Device.Cpu, mapped ? MemoryPlan.Mapped : MemoryPlan.Weights, bytes);
    }

    private void CountWeight(Module module, Module parent, string name, Tensor tensor)
    {
        var place = placement.Of(name);
        var group = module is MoeMlp ? name[..name.LastIndexOf('.')] : parent is MlaAttention or GqaAttention or SwiGluMlp ? parent.Path : module.Path;
        _parameters += tensor.Count;
        _parts.Add((Pattern(group), Layer(group), place, StorageFormat.Of(tensor.Type).Name, tensor.Count, tensor.ByteLength));
        // A tensor stays mapped where it is stored as it is used; low-bit checkpoints keep their linear layers as codes, which are dequantized at load.
        var dequantized = config.StoredFormat is not null && module is Nn.Linear && group != "lm_head";
        _stored += dequantized && config.StoredFormat == StorageFormat.Fp8 ? StorageFormat.Fp8.Bytes(tensor.Rows, tensor.Width)
            : tensor.Count * StoredType.Bytes(1, 1);
        var mapped = place.Weights == WeightHome.Mmap && !dequantized && StorageFormat.Of(tensor.Type) == StoredType;
        Add(place.Weights == WeightHome.Device ? place.Compute : Device.Cpu, mapped ? MemoryPlan.Mapped : MemoryPlan.Weights, tensor.ByteLength);
    }

    /// <summary>The type of what is not quantised in the checkpoint.</summary>
    private StorageFormat StoredType => config.StoredType == DType.F32 ? StorageFormat.F32 : StorageFormat.BF16;

    private void CountTrained(Module module, long bytes, long count)
    {
        var card = placement.Of(module.Path).Compute;
        var memory = _memory.GetValueOrDefault(card);
        var device = module is ExpertBank && memory.PairsOnHost ? Device.Cpu : card;
        _trainable += count;
        Add(device, MemoryPlan.Adapter, bytes);
        Add(device, MemoryPlan.Gradients, bytes);
        Add(memory.MomentsOnHost ? Device.Cpu : device, MemoryPlan.Optimizer, 2 * bytes); // two moments
    }

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
            var visitors = stage.All().OfType<ExpertBank>().FirstOrDefault(b => _memory.GetValueOrDefault(PlaceOf(b).Compute).PairsOnHost);
            var (card, pairs) = visitors is null ? (Device.Cpu, 0) : (PlaceOf(visitors).Compute, 2 * visitors.Trainable.Sum(p => p.Tensor.ByteLength));
            foreach (var (where, bytes) in Workspace.Of(stage, model, placement, window, rows))
                largest[where] = Math.Max(largest.GetValueOrDefault(where), bytes + (where == card ? pairs : 0));
        }
        // The input of every stage and of the head; on each card the newest stay as far as they may.
        var last = placement.Of(model.Stages[^1].Path).Compute;
        Device[] saved = [.. model.Stages.Select(s => placement.Of(s.Path).Compute), last];
        foreach (var device in saved.GroupBy(d => d))
        {
            var stay = device.Key == Device.Cpu ? device.Count()
                : SavedInputs.OnCards([.. Enumerable.Repeat(input, device.Count())], _memory[device.Key].SavedBytes);
            Add(device.Key, MemoryPlan.Inputs, stay * input);
            if (stay < device.Count()) Add(Device.Cpu, MemoryPlan.Inputs, (device.Count() - stay) * input);
        }
        Add(last, MemoryPlan.Inputs, input); // the gradient on its way down
        var head = placement.Of("lm_head").Compute;
        largest[head] = Math.Max(largest.GetValueOrDefault(head), Workspace.OfHead(model, Math.Min(window.Tokens, Workspace.HeadRows)));
        foreach (var (device, bytes) in largest) Add(device, MemoryPlan.Workspace, bytes);
    }

    private StorageFormat FormatOf(ExpertBank bank) => placement.Of(bank.Path).Format ?? config.StoredFormat ?? OwnFormat;

    private BankLayout LayoutOf(ExpertBank bank) => new(bank.Count, bank.Width, bank.Inner, FormatOf(bank));

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
