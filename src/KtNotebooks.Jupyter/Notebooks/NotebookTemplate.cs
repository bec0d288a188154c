using System.Text.Json.Nodes;

namespace KtNotebooks.Jupyter.Notebooks;

/// <summary>A notebook to begin with. Its cells run as they are.</summary>
public static class NotebookTemplate
{
    /// <param name="title">Its first line.</param>
    /// <returns>An .ipynb.</returns>
    public static string Text(string title)
    {
        var notebook = NotebookFile.Of(
            Prose($"# {title}\n\nWhat this notebook shows, in two sentences."),
            Code("#r \"nuget: KtNotebooks\"\nDirectory.SetCurrentDirectory(Repository.Root);   // paths below start at the repository's root"),
            Prose("The cell below switches model, data and device: `./kt notebook run FILE -p dataset=…` sets its names from outside."),
            Code("var model = \"notebooks/models/kt-tiny\";\nvar template = \"deepseek\";\nvar dataset = \"neko_qa_train\";\nvar device = \"cpu\";\n"
                + "var steps = 4;", "parameters"),
            Prose("## A row of the data set"),
            Code("DatasetLoader.Load(\"datasets\", dataset).Take(3).ToDataFrame()"),
            Prose("## Training"),
            Code("""
                TrainResult result;
                using (var run = FineTuneRun.Open($"model_name_or_path={model}", $"template={template}",
                    "dataset_dir=datasets", $"dataset={dataset}", $"device={device}", $"max_steps={steps}",
                    "learning_rate=1e-3", "lora_rank=8", "per_device_train_batch_size=8",
                    "output_dir=artifacts/my-notebook", "overwrite_output_dir=true"))
                using (new TrainingView(dataset).Follow(run.Trainer)) result = run.Run(Cancel);
                """),
            Prose("*What you should see:* a line that falls."),
            Prose("## Exercise\n\nWhich share of its steps has the run above done? Write the expression behind `share =` and run the cell."),
            Code("double? share = null;   // yours\nCheck.That(\"the share of the steps\", share, (double)result.Steps / result.TotalSteps);"));
        return notebook.Json;
    }

    private static JsonObject Prose(string text) => new() { ["cell_type"] = "markdown", ["metadata"] = new JsonObject(), ["source"] = text };

    private static JsonObject Code(string text, params string[] tags) => new()
    {
        ["cell_type"] = "code",
        ["metadata"] = tags.Length == 0 ? new JsonObject() : new JsonObject { ["tags"] = new JsonArray([.. tags.Select(t => (JsonNode)t)]) },
        ["source"] = text,
        ["outputs"] = new JsonArray(),
        ["execution_count"] = null,
    };
}
